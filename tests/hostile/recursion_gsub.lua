-- A gsub callback that calls gsub.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local function f(s) return (s:gsub(".", f)) end
    return { alias = f("aaaa") }
  end,
}
