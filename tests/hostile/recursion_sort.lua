-- A comparator that sorts.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local function f(a, b) table.sort({ 3, 1, 2 }, f) return a < b end
    table.sort({ 3, 1, 2 }, f)
  end,
}
