-- An __eq that loops.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local m = { __eq = function() while true do end end }
    return setmetatable({}, m) == setmetatable({}, m)
  end,
}
