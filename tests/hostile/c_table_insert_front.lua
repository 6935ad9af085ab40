-- Inserts at the front of a growing list.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local t = {}
    while true do table.insert(t, 1, 0) end
  end,
}
