-- Two coroutines that never stop resuming.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local a = coroutine.wrap(function() while true do coroutine.yield() end end)
    while true do a() end
  end,
}
