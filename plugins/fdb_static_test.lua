local t = require("policy.test")

local entries = {
  { network = "storage", mac = "FA:16:3E:00:00:05", tap = "tap1" },
  { network = "storage", mac = "fa:16:3e:00:00:06", vtep = "192.0.2.12" },
  { network = "other", mac = "fa:16:3e:00:00:07", tap = "tap1" },
}

local function case(name, hook, ctx, want, more)
  local case = { name = name, plugin = "fdb_static", hook = hook, config = { entries = entries }, ctx = ctx, want = want }
  for key, value in pairs(more or {}) do case[key] = value end
  t.case(case)
end

local storage = t.vxlan{ name = "storage" }
local off = { learning = false }

case("a tap of the table gets its address, learning off", "port", t.tap{ name = "tap1", network = storage },
  { port = off, fdb = { { mac = "fa:16:3e:00:00:05", kind = "static" } } })
case("another tap of the network only stops learning", "port", t.tap{ name = "tap2", network = storage }, { port = off })
case("the mapping's address is added", "port",
  t.tap{ name = "tap2", network = storage, port = { mac = "fa:16:3e:00:00:09" } },
  { port = off, fdb = { { mac = "fa:16:3e:00:00:09", kind = "static" } } })
case("the same address is not added twice", "port",
  t.tap{ name = "tap1", network = storage, port = { mac = "fa:16:3e:00:00:05" } },
  { port = off, fdb = { { mac = "fa:16:3e:00:00:05", kind = "static" } } })
case("rows under the network's id and under its name both count", "port",
  t.tap{ name = "tap1", network = t.vlan{ id = "red", name = "storage" } },
  { port = off, fdb = { { mac = "fa:16:3e:00:00:08", kind = "static" }, { mac = "fa:16:3e:00:00:05", kind = "static" } } },
  { config = { entries = { entries[1], { network = "red", mac = "fa:16:3e:00:00:08", tap = "tap1" } } } })
case("a network that is not listed: no opinion", "port", t.tap{ name = "tap1", network = t.vxlan() }, t.none)
case("remote addresses go to the VXLAN device", "network", { network = storage },
  { vxlan = off, fdb = { { mac = "fa:16:3e:00:00:06", dst = "192.0.2.12", kind = "unicast" } } })
case("so they do under the network's id and under its name", "network",
  { network = t.vxlan{ id = "red", name = "storage" } },
  { vxlan = off, fdb = {
    { mac = "fa:16:3e:00:00:08", dst = "192.0.2.13", kind = "unicast" },
    { mac = "fa:16:3e:00:00:06", dst = "192.0.2.12", kind = "unicast" },
  } },
  { config = { entries = { entries[2], { network = "red", mac = "fa:16:3e:00:00:08", vtep = "192.0.2.13" } } } })
case("a VLAN has no VXLAN device", "network", { network = t.vlan{ name = "storage" } }, t.none)
case("rows from a file count too", "port", t.tap{ name = "tap9", network = t.vlan{ id = "red" } },
  { port = off, fdb = { { mac = "fa:16:3e:00:00:08", kind = "static" } } },
  { config = { map = "fdb" }, maps = { fdb = { { network = "red", mac = "fa:16:3e:00:00:08", tap = "tap9", vtep = "" } } } })
case("a bad address is named", "port", t.tap{ name = "tap9", network = t.vlan{ id = "red" } }, nil,
  { config = { entries = { { network = "red", mac = "fa:16", tap = "tap9" } } }, want_error = "fdb[1].mac" })
