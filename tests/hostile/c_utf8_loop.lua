-- Walks a large string again and again.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local s = ("x"):rep(1e5)
    while true do utf8.len(s) end
  end,
}
