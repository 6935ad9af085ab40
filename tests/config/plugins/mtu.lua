return { name = "mtu", api = 1 }
