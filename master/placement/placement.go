package placement

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Server is a chunkserver as others reach it.
type Server struct {
	ID      gfs.ServerID
	Address string // HOST:PORT of its data plane
	Rack    string // its label; empty when it has none
}

// Candidate is a chunkserver with what decides whether a new replica goes there.
type Candidate struct {
	Server
	Up            bool
	Draining      bool
	Unreached     bool // a chunkserver failed to reach it over the data plane not long ago
	CapacityBytes int64
	FreeBytes     int64
	Leases        int // chunks of which it is the primary
	Creations     int // replicas made there within the last minute or so
}

// ReserveBytes is the free space below which a chunkserver gets no new replica: a twentieth of the disk, at most
// 1 GiB, and at least two chunks, so that the chunks already there can grow.
func ReserveBytes(capacityBytes int64) int64 {
	return max(min(capacityBytes/20, 1<<30), 2*gfs.ChunkSize)
}

// fits reports whether the server has room for one more chunk above its reserve.
func (c Candidate) fits() bool { return c.FreeBytes >= ReserveBytes(c.CapacityBytes)+gfs.ChunkSize }

// use is the fraction of the disk in use, from 0 to 1.
func (c Candidate) use() float64 {
	if c.CapacityBytes <= 0 {
		return 1
	}
	return 1 - float64(c.FreeBytes)/float64(c.CapacityBytes)
}

// averageSlack is how far above the average disk use a server still counts as below it: without slack the fuller
// half of servers that are equal to within noise would get nothing.
const averageSlack = 0.05

// Choose picks want servers (1 to gfs.MaxReplicas) for a new chunk out of candidates, none of those in avoid, in
// chain order with the primary first. random breaks ties and is all the chance there is. The candidates are not
// changed. Those that are unreached come after all others. When they are too few the error names the numbers: CodeUnavailable when servers are missing, CodeNoSpace
// when there are enough but they are full.
// Source: GFS 4.2
func Choose(candidates []Candidate, want int, avoid map[gfs.ServerID]bool, random *rand.Rand) ([]Server, error) {
	if want < 1 || want > gfs.MaxReplicas {
		return nil, gfs.Errorf(gfs.CodeInvalid, "%d replicas wanted: want 1 to %d", want, gfs.MaxReplicas)
	}
	usable := make([]Candidate, 0, len(candidates))
	var up, full, avoided int
	for _, c := range candidates {
		if !c.Up || c.Draining {
			continue
		}
		up++
		switch {
		case avoid[c.ID]:
			avoided++
		case !c.fits():
			full++
		default:
			usable = append(usable, c)
		}
	}
	if len(usable) < want {
		return nil, tooFew(up, full, avoided, want)
	}
	// A fixed order first: the result depends on the servers and the random source, not on the caller's order.
	slices.SortFunc(usable, func(a, b Candidate) int { return cmp.Compare(a.ID, b.ID) })
	random.Shuffle(len(usable), func(i, j int) { usable[i], usable[j] = usable[j], usable[i] })

	average := 0.0
	for _, c := range usable {
		average += c.use() / float64(len(usable))
	}
	chosen := make([]Candidate, 0, want)
	racks := map[string]int{}
	for len(chosen) < want {
		best := 0
		for i := range usable {
			if compare(usable[i], usable[best], racks, average) < 0 {
				best = i
			}
		}
		chosen = append(chosen, usable[best])
		racks[usable[best].Rack]++
		usable = slices.Delete(usable, best, best+1)
	}
	primary := slices.MinFunc(chosen, func(a, b Candidate) int {
		return cmp.Or(compareBools(a.Unreached, b.Unreached), cmp.Compare(a.Leases, b.Leases))
	})
	servers := make([]Server, 0, want)
	for _, c := range chosen {
		servers = append(servers, c.Server)
	}
	return Chain(servers, primary.ID), nil
}

// compare orders two candidates for the next replica; the better one is less. One that others do not reach would be left out
// of the chunk at its first mutation, which waits for that. Of the rest racks come first (a lost rack must not take all
// replicas), then the paper's two wishes, then the emptier disk in steps of a tenth.
func compare(a, b Candidate, racks map[string]int, average float64) int {
	return cmp.Or(
		compareBools(a.Unreached, b.Unreached),
		cmp.Compare(racks[a.Rack], racks[b.Rack]),
		compareBools(a.use() > average+averageSlack, b.use() > average+averageSlack),
		cmp.Compare(a.Creations, b.Creations),
		cmp.Compare(int(a.use()*10), int(b.use()*10)),
	)
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func tooFew(up, full, avoided, want int) error {
	if up >= want && full > 0 && up-full < want {
		return gfs.Errorf(gfs.CodeNoSpace, "%s up, %d of them full, %s wanted: free space or add %s",
			are(up), full, replicas(want), more(want-(up-full)))
	}
	if up >= want {
		return gfs.Errorf(gfs.CodeUnavailable, "%s up, %d of them failed to make the chunk, %s wanted: look at their logs or start %d more",
			are(up), avoided, replicas(want), want-(up-full-avoided))
	}
	if want == 1 {
		return gfs.Errorf(gfs.CodeTooFewServers, "no chunkserver is up, 1 replica wanted: start one")
	}
	return gfs.Errorf(gfs.CodeTooFewServers, "%s up, %s wanted: start %d more or create the file with fewer replicas",
		are(up), replicas(want), want-up)
}

func are(servers int) string {
	if servers == 1 {
		return "1 chunkserver is"
	}
	return itoa(servers) + " chunkservers are"
}

func replicas(n int) string {
	if n == 1 {
		return "1 replica"
	}
	return itoa(n) + " replicas"
}

func more(n int) string {
	if n == 1 {
		return "1 chunkserver"
	}
	return itoa(n) + " chunkservers"
}

// Chain puts members in the order in which data travel: the primary, then each time the member nearest to the one
// before (same host, then same rack, then longest common prefix of the addresses). Members that are equally near
// keep the order they came in. The result is a new slice; a primary that is no member leaves the first as head.
// Source: GFS 3.2
func Chain(members []Server, primary gfs.ServerID) []Server {
	rest := slices.Clone(members)
	chain := make([]Server, 0, len(rest))
	next := max(slices.IndexFunc(rest, func(s Server) bool { return s.ID == primary }), 0)
	for len(rest) > 0 {
		chain = append(chain, rest[next])
		rest = slices.Delete(rest, next, next+1)
		last := chain[len(chain)-1]
		next = 0
		for i := range rest {
			if nearness(last, rest[i]) > nearness(last, rest[next]) {
				next = i
			}
		}
	}
	return chain
}

// nearness grows as two servers are closer.
func nearness(a, b Server) int {
	hostA, hostB := host(a.Address), host(b.Address)
	switch {
	case hostA == hostB:
		return 1 << 20
	case a.Rack != "" && a.Rack == b.Rack:
		return 1 << 19
	}
	return commonPrefixBits(hostA, hostB)
}

// host is the address without its port.
func host(address string) string {
	if colon := strings.LastIndexByte(address, ':'); colon >= 0 {
		return strings.Trim(address[:colon], "[]")
	}
	return address
}
