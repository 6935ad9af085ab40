-- Writes a global through _G.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    _G.counter = 1
  end,
}
