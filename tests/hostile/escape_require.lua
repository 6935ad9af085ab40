-- Requires a file outside lib/.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return require("../../../etc/passwd")
  end,
}
