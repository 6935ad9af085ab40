local t = require("policy.test")

local function case(name, config, ctx, want)
  t.case{ name = name, plugin = "port_isolation", hook = "port", config = config, ctx = t.tap(ctx), want = want }
end

local guests = t.vlan{ name = "guests" }
case("a tap of a listed network is isolated", { networks = { "guests" } }, { network = guests }, { port = { isolated = true } })
case("by id", { networks = { guests.id } }, { network = guests }, { port = { isolated = true } })
case("all networks", { networks = { "*" } }, { network = t.flat() }, { port = { isolated = true } })
case("a gateway is not", { networks = { "*" }, gateways = { "^tapgw" } }, { name = "tapgw0", network = guests },
  { port = { isolated = false } })
case("other networks: no opinion", { networks = { "guests" } }, { network = t.vlan() }, t.none)
case("without configuration it does nothing", {}, { network = guests }, t.none)
