-- Loops while it loads.
while true do end
return {
  api = 1,
  when = { tap = "evil*" },
  port = function() end,
}
