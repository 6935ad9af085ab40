-- A coroutine as MTU.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { mtu = coroutine.create(function() end) }
  end,
}
