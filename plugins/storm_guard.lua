-- storm_guard: what a tap can flood, and what is flooded to it.
--
-- On every tap: unknown unicast is not sent to it, and a BPDU from it shuts the port (guard). Broadcast and multicast
-- can be cut too, where nothing depends on them (an ARP responder and static neighbours make broadcast dispensable; IPv6
-- needs multicast). Taps that must see everything (routers, load balancers) are listed in `exempt`.
--
--   [policy.plugin.storm_guard]
--   unknown_unicast = false            # send unknown unicast to taps?
--   multicast = true                   # send unknown multicast to taps?
--   broadcast = true                   # send broadcast to taps?
--   guard = true                       # BPDU guard
--   networks = ["guests"]              # ids or names; default: all
--   exempt = ["^tapgw"]                # Lua patterns for names of taps
local function concerned(network)
  local networks = host.config.networks
  if #networks == 0 then return true end
  for _, wanted in ipairs(networks) do
    if network and (wanted == network.id or wanted == network.name) then return true end
  end
  return false
end

return {
  api = 1,
  name = "storm_guard",
  reads = { "link", "network" },
  schema = {
    unknown_unicast = { type = "boolean", default = false, doc = "send unknown unicast to taps" },
    multicast = { type = "boolean", default = true, doc = "send unknown multicast to taps" },
    broadcast = { type = "boolean", default = true, doc = "send broadcast to taps" },
    guard = { type = "boolean", default = true, doc = "BPDU guard" },
    networks = { type = "list", default = {}, doc = "ids or names of networks; none: all" },
    exempt = { type = "list", default = {}, doc = "Lua patterns for names of taps" },
  },

  port = function(ctx)
    if not concerned(ctx.network) then return nil end
    for _, pattern in ipairs(host.config.exempt) do
      if ctx.link.name:find(pattern) then return nil end
    end
    local config = host.config
    return {
      port = {
        flood = config.unknown_unicast,
        mcast_flood = config.multicast,
        bcast_flood = config.broadcast,
        guard = config.guard,
      },
    }
  end,
}
