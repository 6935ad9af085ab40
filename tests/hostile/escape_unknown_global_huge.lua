-- An unknown global with a name of megabytes.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return _G[("x"):rep(4e6)]
  end,
}
