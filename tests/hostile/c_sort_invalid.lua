-- A comparator that contradicts itself.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local t = {}
    for i = 1, 2e5 do t[i] = i % 7 end
    table.sort(t, function() return true end)
    error("done")
  end,
}
