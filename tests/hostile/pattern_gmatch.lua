-- gmatch that never advances far.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    for _ in (("a"):rep(30000)):gmatch("a-.-a-.-b") do end
  end,
}
