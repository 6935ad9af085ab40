-- A string of 1 GiB.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { alias = ("x"):rep(2 ^ 30) }
  end,
}
