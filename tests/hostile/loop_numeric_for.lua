-- A for loop of 2^53 rounds.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local n = 0
    for i = 1, 2 ^ 53 do n = n + i end
    return { mtu = n }
  end,
}
