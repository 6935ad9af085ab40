-- Loops inside a coroutine.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    coroutine.wrap(function() while true do end end)()
  end,
}
