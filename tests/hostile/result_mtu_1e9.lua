-- An absurd MTU.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { mtu = 1e9 }
  end,
}
