-- name_patterns: finds the network of a tap by the tap's name or its ifalias, where no mapping names it.
--
-- Rules are tried in order. `name` and `alias` are Lua patterns; both must match if both are given. `network` is an id or
-- a name and may use captures ("%1"), first those of `name`, then those of `alias`. `ignore = true` leaves the tap alone.
--
--   [policy.plugin.name_patterns]
--   rules = [
--     { name = "^fwpr", ignore = true },                         # Proxmox: ports of its firewall bridges
--     { name = "^tap(%d%d)%d+i%d+$", network = "tenant-%1" },    # Proxmox: tap<vmid>i<n>, the first two digits
--     { name = "^fc%-(%l+)%-", network = "%1" },                 # Firecracker: fc-<network>-<n>
--     { name = "^vnet", alias = "^net:(%S+)", network = "%1" },  # libvirt: a hook script sets the alias
--   ]
local function captures(text, pattern)
  if not pattern then return {} end
  if not text then return nil end
  local found = { text:find(pattern) }
  if not found[1] then return nil end
  return { table.unpack(found, 3) }
end

local function fill(text, values)
  return (text:gsub("%%(%d)", function(digit) return values[tonumber(digit)] end))
end

return {
  api = 1,
  name = "name_patterns",
  reads = { "link" },
  schema = {
    rules = { type = "list", default = {}, doc = "rules: name, alias, and network or ignore" },
  },

  resolve = function(ctx)
    for _, rule in ipairs(host.config.rules) do
      local values = captures(ctx.link.name, rule.name)
      local more = values and captures(ctx.link.alias, rule.alias)
      if more and (rule.name or rule.alias) then
        if rule.ignore then return { ignore = true } end
        for _, value in ipairs(more) do table.insert(values, value) end
        return { network = fill(rule.network, values) }
      end
    end
    return nil
  end,
}
