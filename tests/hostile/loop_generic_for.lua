-- An iterator that never ends.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    for _ in function() return true end do end
  end,
}
