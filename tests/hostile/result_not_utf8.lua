-- Bytes that are no text.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { alias = "\255\254" }
  end,
}
