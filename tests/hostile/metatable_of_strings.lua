-- Changes the string library for everybody.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    getmetatable("").__index = function() return "owned" end
  end,
}
