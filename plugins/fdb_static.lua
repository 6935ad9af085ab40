-- fdb_static: forwarding entries from a table, learning off.
--
-- For every network that the table mentions: source-address learning is off on its taps and its VXLAN device, and only
-- the listed addresses are forwarded to. A row says where an address is:
--   { network = "storage", mac = "fa:16:3e:00:00:05", tap = "tap1" }         behind a tap of this host
--   { network = "storage", mac = "fa:16:3e:00:00:06", vtep = "192.0.2.12" }  behind another host (vxlan)
-- `network` is an id or a name. The rows stand in the configuration, or in a file named in [policy.maps] (JSON, TOML or
-- CSV with these columns). An address the mapping knows of a port (`mac` of [[port]]) is added by itself.
--
--   [policy.plugin.fdb_static]
--   entries = [ { network = "storage", mac = "fa:16:3e:00:00:05", tap = "tap1" } ]
--   map = "fdb"                         # [policy] maps = { fdb = "fdb.csv" }
-- The rows by what they call their network, then by tap: sorted out once, as there may be thousands, and every tap asks.
local by_network, made_of

local function given(text)
  return text ~= nil and text ~= ""
end

local function sort_out()
  local sorted = {}
  local function take(list)
    for _, row in ipairs(list) do
      if row.network then
        local known = sorted[row.network] or { taps = {}, remote = {} }
        sorted[row.network] = known
        if given(row.vtep) then table.insert(known.remote, { mac = row.mac, dst = row.vtep, kind = "unicast" }) end
        if given(row.tap) then
          known.taps[row.tap] = known.taps[row.tap] or {}
          table.insert(known.taps[row.tap], row)
        end
      end
    end
  end
  take(host.config.entries)
  if host.config.map then take(host.map(host.config.map)) end
  by_network, made_of = sorted, host.config
end

-- What the table says of a network: under its id, under its name, or both. Empty: it does not mention it.
local function told(network)
  if made_of ~= host.config then sort_out() end
  local by_id, by_name = by_network[network.id], nil
  if network.name and network.name ~= network.id then by_name = by_network[network.name] end
  return by_id and { by_id, by_name } or { by_name }
end

return {
  api = 1,
  name = "fdb_static",
  reads = { "link", "port", "network" },
  schema = {
    entries = { type = "list", default = {}, doc = "rows: network, mac, and tap or vtep" },
    map = { type = "string", doc = "name of a table in [policy.maps] with the same columns" },
  },

  network = function(ctx)
    local found = told(ctx.network)
    if #found == 0 or ctx.network.network_type ~= "vxlan" then return nil end
    local fdb = {}
    for _, place in ipairs(found) do
      for _, entry in ipairs(place.remote) do table.insert(fdb, entry) end
    end
    return { vxlan = { learning = false }, fdb = fdb }
  end,

  port = function(ctx)
    local found = ctx.network and told(ctx.network) or {}
    if #found == 0 then return nil end
    local fdb, known = {}, {}
    local function add(mac)
      local usual = host.net.mac_parse(mac) or mac
      if not known[usual] then
        known[usual] = true
        table.insert(fdb, { mac = usual, kind = "static" })
      end
    end
    for _, place in ipairs(found) do
      for _, row in ipairs(place.taps[ctx.link.name] or {}) do add(row.mac) end
    end
    if ctx.port and ctx.port.mac then add(ctx.port.mac) end
    return { port = { learning = false }, fdb = fdb }
  end,
}
