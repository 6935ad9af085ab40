-- mtu: one MTU for a network's bridge, its VXLAN device and its taps.
--
-- The MTU of a network is, in this order:
--   1. what `networks` says of its id or name,
--   2. the network's own `mtu` from the configuration,
--   3. vxlan only: the underlay's MTU minus the overhead of the encapsulation.
-- On a VXLAN network it is never larger than what fits through the underlay: such a value is lowered, with a warning.
--
--   [policy.plugin.mtu]
--   headroom = 50                       # bytes to leave for the encapsulation; default: overhead4 or overhead6
--   overhead4 = 50                      # outer Ethernet, IPv4, UDP and VXLAN headers
--   overhead6 = 70                      # the same with IPv6, when the underlay has no IPv4 address
--   networks = { storage = 9000 }
local function room(ctx)
  if ctx.network.network_type ~= "vxlan" or not ctx.uplink then return nil end
  local config = host.config
  local by_family = (ctx.uplink.addr4 or not ctx.uplink.addr6) and config.overhead4 or config.overhead6
  return ctx.uplink.mtu - (config.headroom or by_family)
end

local function network_mtu(ctx)
  local network = ctx.network
  if not network then return nil end
  local table_of = host.config.networks
  local told = table_of[network.id] or (network.name and table_of[network.name]) or network.mtu
  local fits = room(ctx)
  if told and fits and told > fits then
    host.log.warn("network MTU does not fit through the underlay", { network = network.id, told = told, fits = fits })
    return fits
  end
  return told or fits
end

return {
  api = 1,
  name = "mtu",
  reads = { "network", "uplink" },
  schema = {
    headroom = { type = "integer", min = 0, max = 200, doc = "bytes to leave; replaces overhead4 and overhead6" },
    overhead4 = { type = "integer", default = 50, min = 0, max = 200, doc = "bytes VXLAN over IPv4 adds" },
    overhead6 = { type = "integer", default = 70, min = 0, max = 200, doc = "bytes VXLAN over IPv6 adds" },
    networks = { type = "table", default = {}, doc = "MTU by network id or name" },
  },

  network = function(ctx)
    local mtu = network_mtu(ctx)
    if not mtu then return nil end
    local uplink = ctx.network.network_type == "vxlan" and { mtu = mtu } or nil
    return { bridge = { mtu = mtu }, uplink = uplink }
  end,

  port = function(ctx)
    return { mtu = network_mtu(ctx) }
  end,
}
