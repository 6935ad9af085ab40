-- Grows a table for ever.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local t = {}
    while true do t[#t + 1] = { 1, 2, 3 } end
  end,
}
