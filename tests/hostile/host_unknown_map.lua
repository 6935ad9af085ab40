-- A map that is not configured.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { mtu = host.map("nothing").mtu }
  end,
}
