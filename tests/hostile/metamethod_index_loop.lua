-- An __index that loops.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return setmetatable({}, { __index = function() while true do end end }).x
  end,
}
