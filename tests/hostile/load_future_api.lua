-- A version of the future.
return { api = 99, port = function() end }
