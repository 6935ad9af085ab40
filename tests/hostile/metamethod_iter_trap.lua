-- An __iter trap in the result: read raw, it is an empty answer.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return setmetatable({}, { __iter = function() while true do end end, __len = function() while true do end end })
  end,
}
