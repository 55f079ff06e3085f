-- Pktgen-DPDK sends UNDERSTUDY_COUNT frames of UNDERSTUDY_SIZE bytes (with the frame check sequence) at
-- UNDERSTUDY_RATE percent of the link's speed, says how many it sent, and ends.
local function env(name)
  return tonumber(os.getenv("UNDERSTUDY_" .. name))
end

pktgen.screen("off")
pktgen.set_mac("0", "dst", "02:00:00:00:00:01")
pktgen.set_ipaddr("0", "src", "10.0.0.1/24")
pktgen.set_ipaddr("0", "dst", "10.0.0.2")
pktgen.set_proto("0", "udp")
pktgen.set("0", "size", env("SIZE"))
pktgen.set("0", "rate", env("RATE"))
pktgen.set("0", "count", env("COUNT"))
pktgen.start("0")
local sent, waits = 0, 300
while sent < env("COUNT") and waits > 0 do
  pktgen.delay(100)
  sent = pktgen.portStats("0", "port")[0].opackets
  waits = waits - 1
end
pktgen.stop("0")
print("understudy: sent " .. sent)
pktgen.quit()
