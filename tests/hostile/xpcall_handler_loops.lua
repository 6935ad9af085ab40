-- The error handler itself loops.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    while true do
      xpcall(function() while true do end end, function() while true do end end)
    end
  end,
}
