-- A list with a hole: a plain deserialiser cuts it short.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { fdb = { [1] = { mac = "fa:16:3e:00:00:05" }, [3] = { mac = "fa:16:3e:00:00:06" } } }
  end,
}
