-- A misspelt hook.
return { api = 1, prot = function() end }
