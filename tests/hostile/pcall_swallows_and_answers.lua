-- Swallows the stop, then pretends nothing happened. The stop stays in force, so there is no answer.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    pcall(function() while true do end end)
    for i = 1, 10 do end
    return { mtu = 1400 }
  end,
}
