-- Leaks into an upvalue from call to call.
local kept = {}
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    for i = 1, 200 do kept[#kept + 1] = ("x"):rep(65536) .. #kept end
    return { mtu = 1400 }
  end,
}
