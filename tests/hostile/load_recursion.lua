-- Recurses while it loads.
local function f() return 1 + f() end
return f()
