-- Nested coroutines until the native stack would overflow.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local function g(n) return coroutine.wrap(g)(n + 1) end
    return g(1)
  end,
}
