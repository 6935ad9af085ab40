-- Controls the garbage collector.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    collectgarbage("stop")
  end,
}
