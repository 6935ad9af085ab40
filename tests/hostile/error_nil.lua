-- Raises nil.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    error()
  end,
}
