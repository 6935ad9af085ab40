-- A trap in the result: it is read raw, so nothing of it runs; what is left is an empty answer.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return setmetatable({}, { __index = function() while true do end end })
  end,
}
