-- Replaces a library function.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    rawset(string, "format", function() return "owned" end)
  end,
}
