-- Ten thousand forwarding entries.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    local fdb = {}
    for i = 1, 10000 do
      fdb[i] = { mac = ("02:00:00:00:%02x:%02x"):format(i // 256, i % 256) }
    end
    return { fdb = fdb }
  end,
}
