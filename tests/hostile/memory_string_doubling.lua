-- Doubles a string for ever.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local s = "x"
    while true do s = s .. s end
  end,
}
