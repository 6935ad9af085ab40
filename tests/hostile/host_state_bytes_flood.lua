-- A thousand writes of the same large value.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local large = ("x"):rep(60000)
    for i = 1, 1000 do host.state.set("k" .. i, large) end
  end,
}
