-- Makes coroutines for ever.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    while true do coroutine.create(function() end) end
  end,
}
