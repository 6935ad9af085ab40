-- Reads its configuration too early.
local n = host.config.n
return { api = 1, port = function() return { mtu = n } end }
