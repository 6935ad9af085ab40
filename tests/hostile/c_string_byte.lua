-- Asks for a million bytes on the stack.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { alias = tostring(select("#", (("x"):rep(1e6)):byte(1, -1))) }
  end,
}
