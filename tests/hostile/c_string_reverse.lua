-- Heavy C calls in a row.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local s = ("x"):rep(4e6)
    while true do s:reverse() end
  end,
}
