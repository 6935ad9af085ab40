-- Compiles code.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return loadstring("while true do end")()
  end,
}
