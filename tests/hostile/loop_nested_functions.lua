-- Two functions that call each other in a loop.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local function a() return 1 end
    local function b() return a() end
    while b() do end
  end,
}
