-- Catches at every level of a recursion.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local function f() while true do pcall(f) end end
    f()
  end,
}
