-- Nested a thousand times.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local t = {}
    for i = 1, 1000 do t = { tags = t } end
    return t
  end,
}
