-- Resumes itself.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    assert(coroutine.resume(coroutine.running()))
  end,
}
