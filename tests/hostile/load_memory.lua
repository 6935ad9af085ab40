-- Eats memory while it loads.
local t = {}
while true do t[#t + 1] = ("x"):rep(1000) .. #t end
