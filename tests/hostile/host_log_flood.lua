-- Logs without end.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    while true do host.log.error(("x"):rep(10000), { n = 1 }) end
  end,
}
