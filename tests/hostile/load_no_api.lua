-- No API version.
return { port = function() end }
