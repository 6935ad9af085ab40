-- A __tostring that calls tostring on itself.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local t
    t = setmetatable({}, { __tostring = function() return tostring(t) end })
    return { alias = tostring(t) }
  end,
}
