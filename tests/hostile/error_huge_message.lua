-- Raises a megabyte.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    error(("x"):rep(1e6))
  end,
}
