-- 1/0 as MTU.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { mtu = 1 / 0 }
  end,
}
