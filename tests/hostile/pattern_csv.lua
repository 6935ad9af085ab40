-- The realistic one: four lazy columns on a line without the last separator.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { alias = (("10.0.0.1,"):rep(4000)):match("^(.-),(.-),(.-),(.-);$") }
  end,
}
