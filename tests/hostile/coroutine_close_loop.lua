-- Closes and creates for ever.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    while true do
      local c = coroutine.create(function() coroutine.yield() end)
      coroutine.resume(c)
      coroutine.close(c)
    end
  end,
}
