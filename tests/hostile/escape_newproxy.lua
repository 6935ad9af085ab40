-- Makes userdata.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return newproxy(true)
  end,
}
