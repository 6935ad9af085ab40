-- Reads a file.
return {
  api = 1,
  when = { tap = "evil*" },
  port = function(ctx)
    return { alias = io.open("/etc/passwd"):read("*a") }
  end,
}
