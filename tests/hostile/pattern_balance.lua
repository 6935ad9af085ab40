-- %b in a retry loop.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    while true do (("("):rep(5000)):find("%b()") end
  end,
}
