-- Each coroutine makes the next one, each of them retries.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local function g()
      return coroutine.wrap(function() while true do pcall(g) end end)()
    end
    g()
  end,
}
