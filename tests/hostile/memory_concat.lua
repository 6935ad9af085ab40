-- Concatenates a large list into itself.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local t = {}
    for i = 1, 1e5 do t[i] = "0123456789" end
    local s = table.concat(t)
    while true do s = table.concat({ s, s, s }) end
  end,
}
