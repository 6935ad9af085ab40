-- A MAC that is none.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { fdb = { { mac = "fa:16:3e:00:00" } } }
  end,
}
