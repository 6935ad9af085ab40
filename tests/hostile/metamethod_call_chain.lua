-- A __call that is callable, that is callable ...
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local t = {}
    for i = 1, 300 do t = setmetatable({}, { __call = t }) end
    t()
    error("done")
  end,
}
