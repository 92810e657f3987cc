package registry

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

var start = time.Unix(1_000_000, 0)

func id(n int) gfs.ServerID { return gfs.ServerID(fmt.Sprintf("%016x", n)) }

func beat(n int, incarnation, sequence uint64) *pb.Heartbeat {
	return &pb.Heartbeat{
		Server:      &pb.Server{Id: string(id(n)), Address: fmt.Sprintf("10.0.0.%d:7500", n), Rack: "a"},
		Incarnation: incarnation, Sequence: sequence, CapacityBytes: 100 << 30, FreeBytes: 90 << 30, UsedBytes: 10 << 30,
	}
}

func status(handle uint64, version gfs.Version) *pb.ReplicaStatus {
	return &pb.ReplicaStatus{Handle: handle, Promised: uint64(version), Active: uint64(version), Length: 7, State: uint32(gfs.ReplicaMember)}
}

func inventoryPage(n int, incarnation uint64, number uint64, page uint32, last bool, from, to uint64, statuses ...*pb.ReplicaStatus) *pb.InventoryPage {
	return &pb.InventoryPage{
		Server: string(id(n)), Incarnation: incarnation, Inventory: number, Page: page, Last: last,
		FirstHandle: from, LastHandle: to, Replicas: statuses,
	}
}

func must(t interface{ Fatal(...any) }, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

// known makes a registry with servers 1 to n up and their incarnations 1.
func known(t interface{ Fatal(...any) }, n int) *Registry {
	r := New(start)
	r.SetHandleLimit(math.MaxUint64)
	for i := range n {
		_, err := r.Heartbeat(beat(i+1, 1, 1), start)
		must(t, err)
	}
	return r
}

// That others do not reach a server is remembered for some time, of one process only.
func TestUnreachedIsForgotten(t *testing.T) {
	r := known(t, 2)
	unreached := func(now time.Time) string {
		var marked []gfs.ServerID
		for _, c := range r.Candidates(now) {
			if c.Unreached {
				marked = append(marked, c.ID)
			}
		}
		return fmt.Sprint(marked)
	}
	one := fmt.Sprint([]gfs.ServerID{id(1)})
	r.Unreached([]gfs.ServerID{id(1), id(9)}, start)
	if got := unreached(start.Add(unreachedMemory - 1)); got != one {
		t.Errorf("unreached %s, want %s", got, one)
	}
	if got := unreached(start.Add(unreachedMemory)); got != "[]" {
		t.Errorf("after %v: unreached %s", unreachedMemory, got)
	}
	_, err := r.Heartbeat(beat(1, 1, 2), start)
	must(t, err)
	if got := unreached(start); got != one {
		t.Errorf("it is heard here: unreached %s, want %s", got, one)
	}
	_, err = r.Heartbeat(beat(1, 2, 1), start)
	must(t, err)
	if got := unreached(start); got != "[]" {
		t.Errorf("another process: unreached %s", got)
	}
}

func TestServersGoDownAfterSilenceAndComeBack(t *testing.T) {
	r := New(start)
	heard, err := r.Heartbeat(beat(1, 1, 1), start)
	must(t, err)
	if !heard.CameUp || !heard.SendInventory {
		t.Fatalf("first heartbeat: %+v", heard)
	}
	for d := time.Duration(0); d < gfs.HeartbeatTimeout; d += time.Second {
		if down := r.Tick(start.Add(d)); len(down) != 0 {
			t.Fatalf("down after %v: %v", d, down)
		}
	}
	down := r.Tick(start.Add(gfs.HeartbeatTimeout))
	if len(down) != 1 || down[0].Server != id(1) || r.Totals().Up != 0 {
		t.Fatalf("down: %v, totals %+v", down, r.Totals())
	}
	if again := r.Tick(start.Add(time.Hour)); len(again) != 0 {
		t.Fatalf("down twice: %v", again)
	}
	heard, err = r.Heartbeat(beat(1, 1, 2), start.Add(time.Hour))
	must(t, err)
	if !heard.CameUp || heard.Replaced != 0 {
		t.Fatalf("back: %+v", heard)
	}
}

func TestAMasterThatWasHeldUpBlamesNobody(t *testing.T) {
	r := known(t, 2)
	r.Tick(start)
	if down := r.Tick(start.Add(time.Minute)); len(down) != 0 {
		t.Fatalf("down because the master was stopped for a minute: %v", down)
	}
	for d := time.Second; d < gfs.HeartbeatTimeout; d += time.Second {
		r.Tick(start.Add(time.Minute + d))
	}
	if down := r.Tick(start.Add(time.Minute + gfs.HeartbeatTimeout)); len(down) != 2 {
		t.Fatalf("silence after the stop does not count: %v", down)
	}
}

func TestAMasterThatBeginsToActAsksForEverythingAgain(t *testing.T) {
	r := New(start)
	for n := range 2 {
		_, err := r.Heartbeat(beat(n+1, 1, 1), start)
		must(t, err)
	}
	// The log was not yet applied, so no handle was believed in.
	_, err := r.Inventory(inventoryPage(1, 1, 1, 0, true, 0, math.MaxUint64, status(5, 1)), start)
	must(t, err)
	r.SetHandleLimit(100)
	r.AskAgain()
	hb := beat(1, 1, 2)
	hb.Leases = []*pb.HeldLease{
		{Handle: 5, Version: 3, Members: []string{string(id(1)), string(id(2))}}, {Handle: 100, Version: 3, Members: []string{string(id(1))}},
	}
	heard, err := r.Heartbeat(hb, start)
	must(t, err)
	if !heard.SendInventory {
		t.Fatal("no inventory is asked for")
	}
	if held := r.LastHeld(); len(held) != 2 || held[0].Handle != 5 || held[0].Server.ID != id(1) {
		t.Fatalf("held %+v", held)
	}
	// A primary is believed about members that were not heard of, and contradicts nobody.
	if replicas := r.Replicas(5); len(replicas) != 2 || !replicas[1].Good(3) || len(r.Replicas(100)) != 0 {
		t.Fatalf("replicas %+v", replicas)
	}
	_, err = r.Inventory(inventoryPage(2, 1, 1, 0, true, 0, math.MaxUint64, status(5, 2)), start)
	must(t, err)
	hb.Sequence++
	_, err = r.Heartbeat(hb, start)
	must(t, err)
	if replicas := r.Replicas(5); replicas[1].Active != 2 {
		t.Fatalf("replicas %+v", replicas)
	}
}

func TestARestartedProcessReplacesTheOneBefore(t *testing.T) {
	r := known(t, 1)
	heard, err := r.Heartbeat(beat(1, 2, 1), start)
	must(t, err)
	if heard.Replaced != 1 || heard.CameUp || !heard.SendInventory {
		t.Fatalf("restart: %+v", heard)
	}
	if _, err := r.Heartbeat(beat(1, 1, 9), start); !errors.Is(err, gfs.ErrWrongIncarnation) {
		t.Fatalf("the process before is still heard: %v", err)
	}
	if r.Incarnation(id(1)) != 2 || r.Incarnation(id(9)) != 0 {
		t.Fatal("wrong incarnations")
	}
}

// A heartbeat that a process sent before it ended can come after the first one of the next process.
func TestALateHeartbeatLocksNobodyOut(t *testing.T) {
	r := New(start)
	for incarnation := range uint64(2) { // the later process is heard first
		_, err := r.Heartbeat(beat(1, 2-incarnation, 1), start)
		must(t, err)
	}
	now := start
	for r.Incarnation(id(1)) == 1 {
		now = now.Add(gfs.HeartbeatTimeout / 4)
		if now.Sub(start) > 2*gfs.HeartbeatTimeout {
			t.Fatal("the living process is refused for ever")
		}
		r.Tick(now)
		if heard, err := r.Heartbeat(beat(1, 2, 2), now); err == nil && (heard.Replaced != 1 || !heard.SendInventory) {
			t.Fatalf("it is believed with %+v", heard)
		}
	}
	if _, err := r.Heartbeat(beat(1, 1, 2), now); !errors.Is(err, gfs.ErrWrongIncarnation) {
		t.Fatalf("and the dead one again: %v", err)
	}
}

func TestInventoriesAreAskedForUntilComplete(t *testing.T) {
	r := known(t, 1)
	sequence := uint64(1)
	wants := func() bool {
		sequence++
		heard, err := r.Heartbeat(beat(1, 1, sequence), start)
		must(t, err)
		return heard.SendInventory
	}
	if !wants() {
		t.Fatal("no inventory asked for")
	}
	if complete, err := r.Inventory(inventoryPage(1, 1, 5, 0, false, 0, 10, status(3, 1)), start); err != nil || complete {
		t.Fatal(complete, err)
	}
	if wants() {
		t.Fatal("asked for another while one arrives")
	}
	if _, err := r.Inventory(inventoryPage(1, 1, 5, 2, true, 11, math.MaxUint64), start); !errors.Is(err, gfs.ErrConflict) {
		t.Fatalf("a page was skipped: %v", err)
	}
	if !wants() || r.Totals().Inventoried {
		t.Fatal("a broken inventory counts")
	}
	_, err := r.Inventory(inventoryPage(1, 1, 6, 0, false, 0, 10, status(3, 1)), start)
	must(t, err)
	if _, err := r.Inventory(inventoryPage(1, 1, 6, 1, true, 12, math.MaxUint64), start); !errors.Is(err, gfs.ErrConflict) {
		t.Fatalf("handle 11 is in no page: %v", err)
	}
	_, err = r.Inventory(inventoryPage(1, 1, 7, 0, false, 0, 10, status(3, 1)), start)
	must(t, err)
	if complete, err := r.Inventory(inventoryPage(1, 1, 7, 0, false, 0, 10, status(3, 1)), start); err != nil || complete {
		t.Fatal(complete, err)
	}
	for range 2 { // the acknowledgement may be lost
		if complete, err := r.Inventory(inventoryPage(1, 1, 7, 1, true, 11, math.MaxUint64, status(12, 1)), start); err != nil || !complete {
			t.Fatal(complete, err)
		}
	}
	if wants() || !r.Totals().Inventoried || len(r.Replicas(3)) != 1 || len(r.Replicas(12)) != 1 {
		t.Fatal("a complete inventory does not count")
	}
	sequence++ // a lost heartbeat takes its slice with it
	if !wants() {
		t.Fatal("a gap in the heartbeats does not ask for all")
	}
}

func TestAnInventoryThatBreaksOffIsAskedForAgain(t *testing.T) {
	r := known(t, 1)
	_, err := r.Inventory(inventoryPage(1, 1, 5, 0, false, 0, 10), start)
	must(t, err)
	heard, err := r.Heartbeat(beat(1, 1, 2), start.Add(inventoryPatience))
	must(t, err)
	if !heard.SendInventory {
		t.Fatal("an inventory without an end is waited for, for ever")
	}
}

func TestWhatIsAbsentFromAPageIsGone(t *testing.T) {
	r := known(t, 2)
	for n := range 2 {
		_, err := r.Inventory(inventoryPage(n+1, 1, 1, 0, true, 0, math.MaxUint64, status(5, 1), status(600, 1), status(math.MaxUint64-1, 1)), start)
		must(t, err)
	}
	hb := beat(1, 1, 2)
	hb.Slice = inventoryPage(1, 1, 0, 0, false, 400, 700, status(650, 1))
	_, err := r.Heartbeat(hb, start)
	must(t, err)
	for handle, want := range map[gfs.ChunkHandle]int{5: 2, 600: 1, 650: 1, math.MaxUint64 - 1: 2} {
		if got := len(r.Replicas(handle)); got != want {
			t.Errorf("chunk %s has %d replicas, want %d", handle, got, want)
		}
	}
}

func TestNotesOutweighOlderNews(t *testing.T) {
	r := known(t, 1)
	r.Note(5, []Note{{Server: id(1), Promised: 9, Active: 9, State: gfs.ReplicaMember, Marked: true}, {Server: id(77), Promised: 9, Active: 9}})
	hb := beat(1, 1, 2)
	hb.Slice = inventoryPage(1, 1, 0, 0, false, 0, 10) // made before the chunk was
	_, err := r.Heartbeat(hb, start)
	must(t, err)
	hb = beat(1, 1, 3)
	hb.Slice = inventoryPage(1, 1, 0, 0, false, 0, 10, status(5, 8))
	_, err = r.Heartbeat(hb, start)
	must(t, err)
	if got := r.Replicas(5); len(got) != 1 || got[0].Active != 9 || !got[0].Marked || !got[0].Good(9) {
		t.Fatalf("replicas %+v", got)
	}
	r.Tick(start.Add(noteMemory))
	r.Tick(start.Add(2 * noteMemory))
	hb = beat(1, 1, 4)
	hb.Slice = inventoryPage(1, 1, 0, 0, false, 0, 10)
	_, err = r.Heartbeat(hb, start.Add(2*noteMemory))
	must(t, err)
	if got := r.Replicas(5); len(got) != 0 {
		t.Fatalf("a note outlived its time: %+v", got)
	}
}

func TestWhatNoChunkserverSendsIsRefused(t *testing.T) {
	r := known(t, 1)
	for name, hb := range map[string]*pb.Heartbeat{
		"empty":          {},
		"id":             {Server: &pb.Server{Id: "x", Address: "h:1"}, Incarnation: 1, Sequence: 1},
		"address":        {Server: &pb.Server{Id: string(id(1)), Address: "h"}, Incarnation: 1, Sequence: 1},
		"rack":           {Server: &pb.Server{Id: string(id(1)), Address: "h:1", Rack: "\x00"}, Incarnation: 1, Sequence: 1},
		"incarnation":    {Server: &pb.Server{Id: string(id(1)), Address: "h:1"}, Sequence: 1},
		"sequence":       {Server: &pb.Server{Id: string(id(1)), Address: "h:1"}, Incarnation: 1},
		"negative bytes": {Server: &pb.Server{Id: string(id(1)), Address: "h:1"}, Incarnation: 1, Sequence: 1, FreeBytes: -1},
	} {
		if _, err := r.Heartbeat(hb, start); gfs.CodeOf(err) != gfs.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := status(5, 1)
	long.Length = gfs.ChunkSize + 1
	strange := status(5, 1)
	strange.State = 9
	for name, page := range map[string]*pb.InventoryPage{
		"order":    inventoryPage(1, 1, 1, 0, true, 0, 10, status(5, 1), status(5, 1)),
		"range":    inventoryPage(1, 1, 1, 0, true, 0, 4, status(5, 1)),
		"reversed": inventoryPage(1, 1, 1, 0, true, 9, 4),
		"length":   inventoryPage(1, 1, 1, 0, true, 0, 10, long),
		"state":    inventoryPage(1, 1, 1, 0, true, 0, 10, strange),
		"zero":     inventoryPage(1, 1, 1, 0, true, 0, 10, status(0, 1)),
		"number":   inventoryPage(1, 1, 0, 0, true, 0, 10),
	} {
		if _, err := r.Inventory(page, start); gfs.CodeOf(err) != gfs.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.Inventory(inventoryPage(1, 2, 1, 0, true, 0, 10), start); !errors.Is(err, gfs.ErrWrongIncarnation) {
		t.Errorf("incarnation: %v", err)
	}
	if _, err := r.Inventory(inventoryPage(9, 1, 1, 0, true, 0, 10), start); !errors.Is(err, gfs.ErrWrongIncarnation) {
		t.Errorf("unknown server: %v", err)
	}
	if r.Totals().Replicas != 0 {
		t.Error("a refused page left something behind")
	}
}

func TestHandlesNeverGivenOutAreCountedNotKept(t *testing.T) {
	r := New(start)
	_, err := r.Heartbeat(beat(1, 1, 1), start)
	must(t, err)
	r.SetHandleLimit(100)
	_, err = r.Inventory(inventoryPage(1, 1, 1, 0, true, 0, math.MaxUint64, status(99, 1), status(100, 1), status(1<<40, 1)), start)
	must(t, err)
	if totals := r.Totals(); totals.Replicas != 1 || totals.Strange != 2 {
		t.Fatalf("totals %+v", totals)
	}
}

func TestMoreServersThanAClusterHasAreRefused(t *testing.T) {
	r := known(t, MaxServers)
	if _, err := r.Heartbeat(beat(MaxServers+1, 1, 1), start); !errors.Is(err, gfs.ErrBusy) {
		t.Fatalf("one server too many: %v", err)
	}
}

// TestLocationsAgainstAMap holds the pages, the slots and the overflow against a map.
func TestLocationsAgainstAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type key struct {
			handle gfs.ChunkHandle
			server uint16
		}
		l, model := newLocations(), map[key]entry{}
		handles := rapid.SampledFrom([]gfs.ChunkHandle{1, 2, 255, 256, 257, 70000, math.MaxUint64})
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			k := key{handles.Draw(t, "handle"), uint16(rapid.IntRange(0, 7).Draw(t, "server"))}
			if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
				l.remove(k.handle, k.server)
				delete(model, k)
				continue
			}
			e := entry{server: k.server, active: gfs.Version(rapid.IntRange(1, 3).Draw(t, "active")), state: gfs.ReplicaMember, length: 5}
			e.promised = e.active + gfs.Version(rapid.IntRange(0, 1).Draw(t, "ahead"))
			e.marked = rapid.Bool().Draw(t, "marked")
			if !l.set(k.handle, e) {
				t.Fatal("refused")
			}
			model[k] = e
		}
		if l.count != len(model) {
			t.Fatalf("%d replicas counted, %d in the model", l.count, len(model))
		}
		for k, want := range model {
			if got, here := l.get(k.handle, k.server); !here || got != want {
				t.Fatalf("%v: %+v, want %+v", k, got, want)
			}
		}
		first, last := handles.Draw(t, "first"), handles.Draw(t, "last")
		server := uint16(rapid.IntRange(0, 7).Draw(t, "of"))
		var want []gfs.ChunkHandle
		for k := range model {
			if k.server == server && k.handle >= first && k.handle <= last {
				want = append(want, k.handle)
			}
		}
		if first <= last {
			got := slices.Sorted(l.held(server, first, last))
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Fatalf("server %d holds %v in %s..%s, want %v", server, got, first, last, want)
			}
		}
		for k := range model {
			l.remove(k.handle, k.server)
		}
		if l.count != 0 || len(l.pages) != 0 || len(l.overflow) != 0 {
			t.Fatalf("something is left: %d, %d pages, %d overflows", l.count, len(l.pages), len(l.overflow))
		}
	})
}

func TestOneHandleCannotGrowForEver(t *testing.T) {
	l := newLocations()
	for server := range uint16(maxChunkReplicas) {
		if !l.set(1, entry{server: server, active: 1, promised: 1}) {
			t.Fatal("refused too early")
		}
	}
	if l.set(1, entry{server: maxChunkReplicas}) {
		t.Fatal("not refused")
	}
}

func TestMemoryOfAReplica(t *testing.T) {
	const chunks = 200_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	l := newLocations()
	for handle := range gfs.ChunkHandle(chunks) {
		for server := range uint16(3) {
			l.set(handle+1, entry{server: server + uint16(handle%50), active: 1 << 32, promised: 1 << 32, state: gfs.ReplicaMember, length: gfs.ChunkSize})
		}
	}
	perReplica := float64(heap()-before) / (3 * chunks)
	t.Logf("%.1f bytes a replica", perReplica)
	if perReplica > 10 {
		t.Errorf("%.1f bytes a replica: want at most 10", perReplica)
	}
	runtime.KeepAlive(l)
}

// FuzzMessages feeds whatever parses as a heartbeat or a page: nothing may panic, and nothing that was refused may
// leave a trace.
func FuzzMessages(f *testing.F) {
	hb := beat(1, 1, 2)
	hb.Slice = inventoryPage(1, 1, 0, 0, false, 0, 10, status(5, 1))
	hb.Leases = []*pb.HeldLease{{Handle: 5, Version: 1, Extend: true, Members: []string{string(id(1))}}}
	for _, m := range []proto.Message{hb, inventoryPage(1, 1, 1, 0, true, 0, math.MaxUint64, status(5, 1))} {
		data, err := proto.Marshal(m)
		must(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := known(t, 1)
		r.limit = 1 << 20
		var hb pb.Heartbeat
		if proto.Unmarshal(data, &hb) == nil {
			if _, err := r.Heartbeat(&hb, start); err != nil && r.Totals().Replicas != 0 {
				t.Fatal("a refused heartbeat left replicas behind")
			}
		}
		var page pb.InventoryPage
		if proto.Unmarshal(data, &page) == nil {
			before := r.Totals().Replicas
			if _, err := r.Inventory(&page, start); err != nil && r.Totals().Replicas != before {
				t.Fatal("a refused page changed something")
			}
		}
	})
}
