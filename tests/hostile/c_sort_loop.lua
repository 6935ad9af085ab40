-- A comparator that never returns.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    table.sort({ 3, 1, 2 }, function() while true do end end)
  end,
}
