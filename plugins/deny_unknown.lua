-- deny_unknown: only taps that a mapping names are attached.
--
-- A tap is known when the mapping has a port for it ([[port]] with an id, or `tapwire port bind`). Taps that reached
-- their network only by a name pattern or another plugin are denied, except where `networks` or `taps` let them in.
--
--   [policy.plugin.deny_unknown]
--   networks = ["lab"]                 # ids or names of networks open to everybody
--   taps = ["^tapgw"]                  # Lua patterns for names of taps that are always let in
return {
  api = 1,
  name = "deny_unknown",
  on_error = "deny",
  reads = { "link", "port", "network" },
  schema = {
    networks = { type = "list", default = {}, doc = "ids or names of networks open to everybody" },
    taps = { type = "list", default = {}, doc = "Lua patterns for names of taps that are always let in" },
  },

  port = function(ctx)
    if ctx.port and ctx.port.id then return nil end
    for _, open in ipairs(host.config.networks) do
      if ctx.network and (open == ctx.network.id or open == ctx.network.name) then return nil end
    end
    for _, pattern in ipairs(host.config.taps) do
      if ctx.link.name:find(pattern) then return nil end
    end
    return { deny = "no mapping names " .. ctx.link.name }
  end,
}
