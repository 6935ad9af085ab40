-- The returned table is a trap.
return setmetatable({}, { __index = function() while true do end end, __iter = function() while true do end end })
