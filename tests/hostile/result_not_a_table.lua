-- Returns a string.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return "9000"
  end,
}
