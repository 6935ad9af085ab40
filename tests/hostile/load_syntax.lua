-- A syntax error.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx return { mtu = 1400 } end,
}
