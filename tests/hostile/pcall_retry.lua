-- The innocent retry loop: the error of the deadline is caught and work starts again.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local function work() for i = 1, 1e6 do end error("busy") end
    while not pcall(work) do end
  end,
}
