-- An alias of 100 KiB.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { alias = ("x"):rep(100 * 1024) }
  end,
}
