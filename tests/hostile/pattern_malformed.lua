-- A malformed pattern.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { alias = ("x"):match("[") }
  end,
}
