-- Keeps coroutines for ever.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local t = {}
    while true do t[#t + 1] = coroutine.create(function() coroutine.yield(("x"):rep(1000)) end) end
  end,
}
