-- Moves 2^31 slots inside one C call.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    table.move({}, 1, 2147483646, 2, {})
  end,
}
