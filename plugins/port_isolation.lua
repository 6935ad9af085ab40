-- port_isolation: taps of a network can't talk to each other, only to its uplink and to the taps listed as gateways.
--
--   [policy.plugin.port_isolation]
--   networks = ["guests", "6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11"]   # ids or names; "*": all
--   gateways = ["^tapgw"]                                           # Lua patterns for names of taps that reach everybody
--
-- Isolation is set before the tap comes up, so that there is no moment without it.
local function isolated(network)
  for _, wanted in ipairs(host.config.networks) do
    if wanted == "*" or wanted == network.id or wanted == network.name then return true end
  end
  return false
end

return {
  api = 1,
  name = "port_isolation",
  reads = { "link", "network" },
  schema = {
    networks = { type = "list", default = {}, doc = "ids or names of networks; \"*\": all" },
    gateways = { type = "list", default = {}, doc = "Lua patterns for names of taps that are not isolated" },
  },

  port = function(ctx)
    if not ctx.network or not isolated(ctx.network) then return nil end
    for _, pattern in ipairs(host.config.gateways) do
      if ctx.link.name:find(pattern) then return { port = { isolated = false } } end
    end
    return { port = { isolated = true } }
  end,
}
