local t = require("policy.test")

local config = { networks = { "lab" }, taps = { "^tapgw" } }
local function case(name, ctx, want)
  t.case{ name = name, plugin = "deny_unknown", hook = "port", config = config, ctx = t.tap(ctx), want = want }
end

case("a tap without a port is denied, by name", { name = "tap5", network = t.vlan() }, { deny = t.match("tap5") })
case("a port without an id is no port", { network = t.vlan(), port = { mac = "fa:16:3e:00:00:05" } }, { deny = t.match("no mapping") })
case("a mapped tap is let in", { network = t.vlan(), port = { id = "0f3a9c6e" } }, t.none)
case("an open network lets everybody in", { network = t.vlan{ name = "lab" } }, t.none)
case("a listed tap is let in", { name = "tapgw1", network = t.vlan() }, t.none)
