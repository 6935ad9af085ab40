-- Splits a string into a million pieces.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local s = (","):rep(1e6)
    while true do local t = s:split(",") end
  end,
}
