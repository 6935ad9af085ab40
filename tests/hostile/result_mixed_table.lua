-- Both a list and a table with keys.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { fdb = { { mac = "fa:16:3e:00:00:05" }, extra = 1 } }
  end,
}
