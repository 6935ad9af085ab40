-- Exponential backtracking on 40 characters.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { alias = (("a"):rep(40)):find(("a*"):rep(30) .. "b") and "x" }
  end,
}
