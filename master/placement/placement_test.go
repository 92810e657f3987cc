package placement

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cairnfs/cairn/messages/gfs"
	"pgregory.net/rapid"
)

func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func candidate(id, rack string, capacityGiB, freeGiB int64) Candidate {
	return Candidate{
		Server: Server{ID: gfs.ServerID(id), Address: "10.0.0." + id + ":7500", Rack: rack}, Up: true,
		CapacityBytes: capacityGiB << 30, FreeBytes: freeGiB << 30,
	}
}

func ids(servers []Server) string {
	var names []string
	for _, s := range servers {
		names = append(names, string(s.ID))
	}
	return strings.Join(names, " ")
}

func TestReplicasGoToDifferentRacks(t *testing.T) {
	for seed := range uint64(50) {
		chosen, err := Choose([]Candidate{
			candidate("1", "a", 100, 90), candidate("2", "a", 100, 99), candidate("3", "a", 100, 95),
			candidate("4", "b", 100, 60),
		}, 2, nil, source(seed))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(chosen, func(s Server) bool { return s.ID == "4" }) {
			t.Fatalf("seed %d: both replicas on rack a: %s", seed, ids(chosen))
		}
	}
}

// Servers that others do not reach get replicas when there is nobody else, and then the primary is another one.
func TestUnreachedServersComeLast(t *testing.T) {
	all := []Candidate{candidate("1", "a", 100, 90), candidate("2", "b", 100, 90), candidate("3", "a", 100, 90), candidate("4", "a", 100, 20)}
	all[1].Unreached = true
	for i := range all {
		all[i].Leases = i + 1
	}
	all[0].Leases, all[1].Leases = 9, 0
	for seed := range uint64(20) {
		chosen, err := Choose(all, 3, nil, source(seed))
		if err != nil || slices.ContainsFunc(chosen, func(s Server) bool { return s.ID == "2" }) {
			t.Fatalf("seed %d: chosen %s, %v: nobody reaches 2", seed, ids(chosen), err)
		}
		chosen, err = Choose(all, 4, nil, source(seed))
		if err != nil || len(chosen) != 4 || chosen[0].ID != "3" {
			t.Fatalf("seed %d: chosen %s, %v: want all four, 3 the primary", seed, ids(chosen), err)
		}
	}
}

func TestFullServersAndFailedOnesAreLeftOut(t *testing.T) {
	all := []Candidate{candidate("1", "", 100, 50), candidate("2", "", 100, 0), candidate("3", "", 100, 50), candidate("4", "", 100, 50)}
	all[2].Up = false
	chosen, err := Choose(all, 2, nil, source(1))
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(chosen, func(a, b Server) int { return strings.Compare(string(a.ID), string(b.ID)) })
	if ids(chosen) != "1 4" {
		t.Fatalf("chosen %s, want 1 4", ids(chosen))
	}
	if _, err := Choose(all, 2, map[gfs.ServerID]bool{"4": true}, source(1)); err == nil {
		t.Fatal("a server to avoid was chosen")
	}
}

func TestErrorsNameTheNumbers(t *testing.T) {
	two := []Candidate{candidate("1", "", 100, 50), candidate("2", "", 100, 50)}
	full := []Candidate{candidate("1", "", 100, 50), candidate("2", "", 100, 0), candidate("3", "", 100, 0)}
	for _, c := range []struct {
		candidates []Candidate
		want       int
		avoid      map[gfs.ServerID]bool
		is         error
		text       string
	}{
		{two, 3, nil, gfs.ErrUnavailable, "2 chunkservers are up, 3 replicas wanted: start 1 more or create the file with fewer replicas"},
		{two[:1], 2, nil, gfs.ErrUnavailable, "1 chunkserver is up, 2 replicas wanted: start 1 more or create the file with fewer replicas"},
		{nil, 1, nil, gfs.ErrUnavailable, "no chunkserver is up, 1 replica wanted: start one"},
		{full, 3, nil, gfs.ErrNoSpace, "3 chunkservers are up, 2 of them full, 3 replicas wanted: free space or add 2 chunkservers"},
		{two, 2, map[gfs.ServerID]bool{"1": true}, gfs.ErrUnavailable, "2 chunkservers are up, 1 of them failed to make the chunk, 2 replicas wanted: look at their logs or start 1 more"},
		{two, 0, nil, nil, "0 replicas wanted: want 1 to 8"},
	} {
		_, err := Choose(c.candidates, c.want, c.avoid, source(1))
		if err == nil || !strings.Contains(err.Error(), c.text) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%v, want %q", err, c.text)
		}
	}
}

func TestCreationsAndDiskUseSpread(t *testing.T) {
	// 400 chunks on 8 equal servers: counted creations keep them within one of each other.
	counts := map[gfs.ServerID]int{}
	random := source(7)
	for range 400 {
		var all []Candidate
		for i := range 8 {
			c := candidate(fmt.Sprint(i), fmt.Sprint("rack", i%4), 1000, 900)
			c.Creations = counts[c.ID]
			all = append(all, c)
		}
		chosen, err := Choose(all, 3, nil, random)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range chosen {
			counts[s.ID]++
		}
	}
	for id, n := range counts {
		if n < 148 || n > 152 {
			t.Errorf("server %s got %d of 1200 replicas, want about 150", id, n)
		}
	}
	// One server much fuller than the rest gets nothing while the others can hold all.
	all := []Candidate{candidate("1", "", 100, 20), candidate("2", "", 100, 80), candidate("3", "", 100, 80), candidate("4", "", 100, 80)}
	for range 20 {
		chosen, err := Choose(all, 3, nil, random)
		if err != nil || strings.Contains(ids(chosen), "1") {
			t.Fatalf("chosen %s, %v: the server of above-average use is among them", ids(chosen), err)
		}
	}
}

func TestChainGoesToTheNearestEachTime(t *testing.T) {
	members := []Server{
		{ID: "far", Address: "192.168.7.1:1", Rack: "z"},
		{ID: "head", Address: "10.0.0.1:1", Rack: "a"},
		{ID: "samehost", Address: "10.0.0.1:2", Rack: "b"},
		{ID: "samerack", Address: "172.16.0.1:1", Rack: "a"},
		{ID: "samenet", Address: "10.0.0.9:1", Rack: "c"},
	}
	if got := ids(Chain(members, "head")); got != "head samehost samenet far samerack" && got != "head samehost samenet samerack far" {
		t.Errorf("chain %s", got)
	}
	if got := ids(Chain(members[1:4:4], "head")); got != "head samehost samerack" {
		t.Errorf("chain %s", got)
	}
	if got := ids(Chain(members[:2], "nobody")); got != "far head" {
		t.Errorf("chain %s", got)
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"10.0.0.1", "10.0.0.2", 30}, {"10.0.0.1", "::1", 0}, {"host", "10.0.0.1", 0}, {"::1", "::1", 128}} {
		if got := commonPrefixBits(c.a, c.b); got != c.want {
			t.Errorf("%s and %s share %d bits, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestChooseKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []Candidate
		for i := range rapid.IntRange(0, 12).Draw(t, "servers") {
			c := candidate(fmt.Sprint(i), rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "rack"), 100, rapid.Int64Range(0, 100).Draw(t, "free"))
			c.Up = rapid.Bool().Draw(t, "up")
			c.Leases, c.Creations = rapid.IntRange(0, 9).Draw(t, "leases"), rapid.IntRange(0, 9).Draw(t, "creations")
			all = append(all, c)
		}
		want := rapid.IntRange(1, 8).Draw(t, "want")
		seed := rapid.Uint64().Draw(t, "seed")
		chosen, err := Choose(all, want, nil, source(seed))
		usable := 0
		for _, c := range all {
			if c.Up && c.fits() {
				usable++
			}
		}
		if (err == nil) != (usable >= want) {
			t.Fatalf("%d usable of %d wanted: %v", usable, want, err)
		}
		seen := map[gfs.ServerID]bool{}
		for _, s := range chosen {
			i := slices.IndexFunc(all, func(c Candidate) bool { return c.ID == s.ID })
			if seen[s.ID] || !all[i].Up || !all[i].fits() {
				t.Fatalf("server %s chosen twice, down or full", s.ID)
			}
			seen[s.ID] = true
		}
		slices.Reverse(all)
		again, _ := Choose(all, want, nil, source(seed))
		if ids(again) != ids(chosen) {
			t.Fatalf("another order of candidates gives %s instead of %s", ids(again), ids(chosen))
		}
	})
}
