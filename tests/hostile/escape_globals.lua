-- Writes a global.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    counter = 1
  end,
}
