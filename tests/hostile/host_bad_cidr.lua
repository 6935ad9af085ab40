-- A prefix that is none.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { mtu = host.net.cidr_contains("10.0.0.0/99", "10.0.0.1") and 1400 or 1500 }
  end,
}
