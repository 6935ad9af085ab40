-- Asks for randomness.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { mtu = 1000 + math.random(100) }
  end,
}
