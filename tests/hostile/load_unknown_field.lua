-- A misspelt field.
return { api = 1, wen = { tap = "x" }, port = function() end }
