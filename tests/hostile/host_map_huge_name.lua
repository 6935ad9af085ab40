-- A name of megabytes, which the search for a similar one would compare for minutes.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return host.map(("x"):rep(4e6))
  end,
}
