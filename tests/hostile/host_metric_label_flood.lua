-- Labels as large as the memory allows, kept outside of the script's own limit.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local labels = {}
    for i = 1, 1000 do labels["k" .. i] = ("x"):rep(1000) end
    for i = 1, 64 do host.metric.inc("m", 1, labels) end
  end,
}
