-- A port flag in the wrong place.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { learning = false }
  end,
}
