-- Yields out of the hook.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    coroutine.yield({ mtu = 1400 })
  end,
}
