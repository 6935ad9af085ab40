-- Reaches for the metatable of the environment.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local meta = getmetatable(getfenv and getfenv() or {})
    meta.__index = nil
    error("no metatable")
  end,
}
