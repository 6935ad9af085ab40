-- Raises a table.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    error({ code = 7 })
  end,
}
