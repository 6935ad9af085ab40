-- Changes the host table.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    host.config = {}
  end,
}
