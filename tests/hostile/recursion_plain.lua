-- Recurses without end.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local function f() return 1 + f() end
    return f()
  end,
}
