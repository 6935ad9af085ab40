-- Fills the memory, keeps it, then goes on.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local keep = {}
    while pcall(function() keep[#keep + 1] = ("x"):rep(65536) .. #keep end) do end
    return { mtu = 1400 }
  end,
}
