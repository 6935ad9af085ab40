-- A multicast address as a station.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { fdb = { { mac = "01:00:5e:00:00:01" } } }
  end,
}
