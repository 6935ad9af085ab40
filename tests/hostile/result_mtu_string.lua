-- A number as text.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { mtu = "1450" }
  end,
}
