-- policy.test: describe taps and networks, say what you want of a plugin.
local t = {}

local function over(defaults, given)
  local out = {}
  for key, value in pairs(defaults) do out[key] = value end
  for key, value in pairs(given or {}) do out[key] = value end
  return out
end

-- "No opinion": the hook returned nil.
t.none = { ["$none"] = true }

-- Any text that contains `text`.
function t.match(text) return { ["$match"] = text } end

function t.network(given)
  return over({ id = "6f0c2f5e-7d1b-4c39-9a35-0b7f6f0b1c11", network_type = "local" }, given)
end

function t.vxlan(given) return t.network(over({ network_type = "vxlan", segmentation_id = 100 }, given)) end

function t.vlan(given)
  return t.network(over({ network_type = "vlan", segmentation_id = 100, physical_network = "physnet1" }, given))
end

function t.flat(given) return t.network(over({ network_type = "flat", physical_network = "physnet1" }, given)) end

local link = { "ifindex", "name", "mac", "mtu", "kind", "alias", "operstate", "up", "master" }

-- A context for a tap. Fields of the link (name, mac, mtu ...) and parts of ctx (network, uplink, tags ...) are given
-- side by side.
function t.tap(given)
  local ctx = over({}, given)
  ctx.link = over({ ifindex = 7, name = "tap0", mac = "fa:16:3e:00:00:01", mtu = 1500, kind = "tap" }, ctx.link)
  for _, field in ipairs(link) do
    if ctx[field] ~= nil then
      ctx.link[field] = ctx[field]
      ctx[field] = nil
    end
  end
  if ctx.uplink then ctx.uplink = over({ name = "eth0", mtu = 1500, up = true }, ctx.uplink) end
  if ctx.port then ctx.port = over({ admin_state_up = true }, ctx.port) end
  return ctx
end

return t
