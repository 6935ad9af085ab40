-- Lazy quantifiers.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { alias = (("x-"):rep(3000)):match(".-.-.-.-.-.-b$") }
  end,
}
