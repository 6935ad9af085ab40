-- Half a byte.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { mtu = 1450.5 }
  end,
}
