-- Changes its input.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    ctx.network.mtu = 1
  end,
}
