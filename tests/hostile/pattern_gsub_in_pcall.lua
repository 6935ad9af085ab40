-- A catastrophic pattern inside pcall, again and again.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    while true do pcall(string.gsub, ("a"):rep(40), ("a*"):rep(30) .. "b", "") end
  end,
}
