-- Luau has no tail calls: this overflows, is caught, and starts again.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local function f() return f() end
    while true do pcall(f) end
  end,
}
