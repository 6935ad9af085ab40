-- table.insert on something whose length is a lie.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    table.insert(setmetatable({}, { __len = function() return 2 ^ 40 end }), 1, 1)
    error("done")
  end,
}
