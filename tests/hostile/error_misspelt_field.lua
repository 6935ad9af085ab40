-- The usual mistake.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { mtu = ctx.netwrok.mtu }
  end,
}
