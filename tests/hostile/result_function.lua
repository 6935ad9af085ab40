-- Returns a function.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return function() end
  end,
}
