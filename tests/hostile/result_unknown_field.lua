-- A misspelt field.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { mut = 1450 }
  end,
}
