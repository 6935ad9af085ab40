-- string.format with a huge width.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { alias = ("%99999999d"):format(1) }
  end,
}
