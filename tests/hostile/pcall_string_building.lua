-- Catches while it formats.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    while true do pcall(function() return ("%d"):format("x") end) end
  end,
}
