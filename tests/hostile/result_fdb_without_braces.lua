-- Forgot the inner braces: a plain deserialiser takes this for an empty list.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { fdb = { mac = "fa:16:3e:00:00:05" } }
  end,
}
