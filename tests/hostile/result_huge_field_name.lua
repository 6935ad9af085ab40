-- An unknown field of 60 KB.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { [("x"):rep(60000)] = 1 }
  end,
}
