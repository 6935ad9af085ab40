-- Loops for ever, with a condition.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local n = 0
    repeat n = n + 1 until n < 0
  end,
}
