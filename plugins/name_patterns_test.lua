local t = require("policy.test")

local rules = {
  { name = "^fwpr", ignore = true },
  { name = "^tap(%d%d)%d+i%d+$", network = "tenant-%1" },
  { name = "^fc%-(%l+)%-", network = "%1" },
  { name = "^vnet", alias = "^net:(%S+)", network = "%1" },
}

local function case(name, link, want)
  t.case{ name = name, plugin = "name_patterns", hook = "resolve", config = { rules = rules }, ctx = t.tap(link), want = want }
end

case("Proxmox by the digits of the machine's number", { name = "tap1042i0" }, { network = "tenant-10" })
case("Firecracker by the middle of the name", { name = "fc-blue-7" }, { network = "blue" })
case("libvirt by the alias", { name = "vnet3", alias = "net:green seen" }, { network = "green" })
case("libvirt without an alias: no opinion", { name = "vnet3" }, t.none)
case("a port of a firewall bridge is left alone", { name = "fwpr100p0" }, { ignore = true })
case("an unknown name: no opinion", { name = "tap0" }, t.none)
