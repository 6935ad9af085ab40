-- State beyond its limit.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    for i = 1, 6 do host.state.set("k" .. i, ("x"):rep(16000)) end
    return { mtu = 1400 }
  end,
}
