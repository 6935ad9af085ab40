-- A __concat that concatenates.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local m = {}
    m.__concat = function(a, b) return a .. b end
    local t = setmetatable({}, m)
    return { alias = t .. t }
  end,
}
