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
	host   string       // its name or address as others write it, if known
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
	if host == "localhost" || host == n.host {
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

// nearer reports whether a server is nearer than another in a way that its place in the network shows: on this machine, or
// on its rack. Addresses alone do not: servers side by side differ in them by chance.
func (n nearness) nearer(a, b Server) bool {
	return min(n.distance(a), sameRack+1) < min(n.distance(b), sameRack+1)
}

// nearnessOf is the nearness of servers to a server.
func nearnessOf(s Server) nearness {
	n := nearness{rack: s.Rack}
	if host, _, err := net.SplitHostPort(s.Addr); err == nil {
		n.host = host
		if addr, err := netip.ParseAddr(host); err == nil {
			n.local = []netip.Addr{addr.Unmap()}
		}
	}
	return n
}

// chain orders servers in place for data that go from each to the next: the nearest one first, then always the one that is
// nearest to the one before. Which of equally near ones that is differs by seed and client. Source: GFS 3.2
func (n nearness) chain(servers []Server, seed uint64) {
	n.order(servers, seed, func(string) bool { return false })
	for at := 1; at < len(servers); at++ {
		here, best := nearnessOf(servers[at-1]), at
		for i := at + 1; i < len(servers); i++ {
			if here.distance(servers[i]) < here.distance(servers[best]) {
				best = i
			}
		}
		nearest := servers[best]
		copy(servers[at+1:best+1], servers[at:best])
		servers[at] = nearest
	}
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
