-- Recurses through pcall.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local function f() return pcall(f) end
    f()
    error("done")
  end,
}
