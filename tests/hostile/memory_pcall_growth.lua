-- Runs out of memory again and again and catches it.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    while true do
      pcall(function() local t = {} while true do t[#t + 1] = {} end end)
    end
  end,
}
