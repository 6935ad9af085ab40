-- table.create with a huge size.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { alias = tostring(#table.create(2 ^ 26, 0)) }
  end,
}
