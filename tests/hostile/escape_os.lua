-- Ends the process.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    os.exit(1)
  end,
}
