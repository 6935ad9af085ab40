-- Looks for the debug library.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { alias = debug.traceback() }
  end,
}
