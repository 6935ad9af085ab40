-- An error whose __tostring loops.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    error(setmetatable({}, { __tostring = function() while true do end end }))
  end,
}
