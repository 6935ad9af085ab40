-- A boolean as key.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { [true] = 1 }
  end,
}
