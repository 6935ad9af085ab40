-- Raises and catches for ever.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    while true do pcall(error, { code = 1 }) end
  end,
}
