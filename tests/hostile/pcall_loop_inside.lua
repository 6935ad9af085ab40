-- The loop is inside the protected call.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    pcall(function() while true do end end)
    while true do end
  end,
}
