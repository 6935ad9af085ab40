-- The error handler raises and is handled by itself.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local function h(e) xpcall(error, h, e) while true do end end
    xpcall(error, h, "x")
  end,
}
