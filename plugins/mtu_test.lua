local t = require("policy.test")

local function port(name, ctx, want, config)
  t.case{ name = name, plugin = "mtu", hook = "port", config = config, ctx = t.tap(ctx), want = want }
end

port("vxlan leaves room for the headers", { network = t.vxlan(), uplink = { mtu = 9000, addr4 = "192.0.2.1/24" } }, { mtu = 8950 })
port("an IPv6 underlay costs more", { network = t.vxlan(), uplink = { mtu = 9000, addr6 = "2001:db8::1/64" } }, { mtu = 8930 })
port("the overhead can be configured", { network = t.vxlan(), uplink = { mtu = 9000 } }, { mtu = 8900 }, { overhead4 = 100 })
port("the network's own MTU counts", { network = t.vlan{ mtu = 1400 }, uplink = {} }, { mtu = 1400 })
port("what does not fit is lowered", { network = t.vxlan{ mtu = 1500 }, uplink = { mtu = 1500 } }, { mtu = 1450 })
port("the table wins, by name", { network = t.vlan{ name = "storage", mtu = 1500 } }, { mtu = 9000 }, { networks = { storage = 9000 } })
port("the table wins, by id", { network = t.flat{ id = "blue" } }, { mtu = 1600 }, { networks = { blue = 1600 } })
port("flat without a word: no opinion", { network = t.flat(), uplink = { mtu = 9000 } }, t.none)

t.case{
  name = "bridge and VXLAN device get the same MTU", plugin = "mtu", hook = "network",
  ctx = { network = t.vxlan(), uplink = { name = "eth0", mtu = 1500 } },
  want = { bridge = { mtu = 1450 }, uplink = { mtu = 1450 } },
}
t.case{
  name = "a VLAN's uplink keeps its MTU", plugin = "mtu", hook = "network",
  ctx = { network = t.vlan{ mtu = 1400 } }, want = { bridge = { mtu = 1400 } },
}
t.case{
  name = "a network without an MTU: no opinion", plugin = "mtu", hook = "network",
  ctx = { network = t.flat() }, want = t.none,
}
t.case{
  name = "an absurd overhead is refused", plugin = "mtu", hook = "port", config = { overhead4 = 201 },
  ctx = t.tap{ network = t.vxlan() }, want_error = "outside 0..200",
}
t.case{
  name = "a headroom replaces both overheads", plugin = "mtu", hook = "port", config = { headroom = 100 },
  ctx = t.tap{ network = t.vxlan(), uplink = { mtu = 9000, addr6 = "2001:db8::7" } }, want = { mtu = 8900 },
}
t.case{
  name = "no headroom at all", plugin = "mtu", hook = "port", config = { headroom = 0 },
  ctx = t.tap{ network = t.vxlan(), uplink = { mtu = 9000, addr4 = "192.0.2.7" } }, want = { mtu = 9000 },
}
