-- Moves to an index out of reach.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    table.move({ 1 }, 1, 1, 1e300, {})
  end,
}
