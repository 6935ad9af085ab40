-- Unpacks more than the stack holds.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return table.unpack({}, 1, 1e8)
  end,
}
