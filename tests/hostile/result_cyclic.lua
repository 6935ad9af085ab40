-- Contains itself.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local t = {}
    t.tags = t
    return t
  end,
}
