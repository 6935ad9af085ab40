-- Fills the state without end.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    for i = 1, 1e6 do host.state.set("k" .. i, i) end
  end,
}
