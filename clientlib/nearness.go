package clientlib

import (
	"math/bits"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
)

// nearness orders replicas by distance from this machine: the same host, then the same rack, then the longest
// common prefix of addresses. Among equally near ones the order is spread by client, so that readers share the load.
// Source: GFS 3.2
type nearness struct {
	local  []netip.Addr // of this machine
	rack   string
	spread uint64 // differs from client to client
}

func newNearness(rack string) nearness {
	n := nearness{rack: rack, spread: rand.Uint64()}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return n // every replica is then equally far
	}
	for _, a := range addresses {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			n.local = append(n.local, prefix.Addr().Unmap())
		}
	}
	return n
}

// The distances; addresses count down from farPrefix by the bits in common.
const (
	sameHost  = 0
	sameRack  = 1
	farPrefix = 1000
)

// distance is smaller the nearer the server is.
func (n nearness) distance(s Server) int {
	host, _, err := net.SplitHostPort(s.Addr)
	if err != nil {
		return farPrefix
	}
	if host == "localhost" {
		return sameHost
	}
	addr, err := netip.ParseAddr(host)
	if err != nil { // a name: only the rack can tell
		if n.rack != "" && s.Rack == n.rack {
			return sameRack
		}
		return farPrefix
	}
	addr = addr.Unmap()
	common := 0
	for _, local := range n.local {
		if local == addr || addr.IsLoopback() {
			return sameHost
		}
		common = max(common, commonBits(local, addr))
	}
	if n.rack != "" && s.Rack == n.rack {
		return sameRack
	}
	return farPrefix - common
}

// commonBits is the length of the common prefix of two addresses, 0 for different families.
func commonBits(a, b netip.Addr) int {
	if a.Is4() != b.Is4() {
		return 0
	}
	x, y := a.AsSlice(), b.AsSlice()
	for i := range x {
		if d := x[i] ^ y[i]; d != 0 {
			return 8*i + bits.LeadingZeros8(d)
		}
	}
	return 8 * len(x)
}

// order sorts servers in place: nearest first, suspected ones last, equals rotated by seed and client.
func (n nearness) order(servers []Server, seed uint64, suspected func(address string) bool) {
	if len(servers) < 2 {
		return
	}
	first := int((seed*0x9e3779b97f4a7c15 ^ n.spread) % uint64(len(servers)))
	rotated := append(slices.Clone(servers[first:]), servers[:first]...)
	copy(servers, rotated)
	key := make(map[string]int, len(servers))
	for _, s := range servers {
		key[s.Addr] = n.distance(s)
		if suspected(s.Addr) {
			key[s.Addr] += 2 * farPrefix
		}
	}
	slices.SortStableFunc(servers, func(a, b Server) int { return key[a.Addr] - key[b.Addr] })
}
