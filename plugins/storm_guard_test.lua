local t = require("policy.test")

local function case(name, config, ctx, want)
  t.case{ name = name, plugin = "storm_guard", hook = "port", config = config, ctx = t.tap(ctx), want = want }
end

local function flags(unicast, multicast, broadcast, guard)
  return { port = { flood = unicast, mcast_flood = multicast, bcast_flood = broadcast, guard = guard } }
end

case("by default unknown unicast is cut and BPDUs are refused", {}, { network = t.vlan() }, flags(false, true, true, true))
case("broadcast can be cut too", { broadcast = false }, { network = t.vlan() }, flags(false, true, false, true))
case("only listed networks are concerned", { networks = { "guests" } }, { network = t.vlan() }, t.none)
case("a listed network is", { networks = { "guests" } }, { network = t.vlan{ name = "guests" } }, flags(false, true, true, true))
case("a router sees everything", { exempt = { "^tapgw" } }, { name = "tapgw0", network = t.vlan() }, t.none)
t.case{
  name = "a misspelt option is refused", plugin = "storm_guard", hook = "port", config = { brodcast = false },
  ctx = t.tap{ network = t.vlan() }, want_error = "did you mean `broadcast`?",
}
