-- An __index function that indexes itself.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local t
    t = setmetatable({}, { __index = function(_, k) return t[k .. "x"] end })
    return t.a
  end,
}
