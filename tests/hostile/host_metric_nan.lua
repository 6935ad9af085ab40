-- A metric that is no number.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    host.metric.inc("x", 0 / 0)
  end,
}
