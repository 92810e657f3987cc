package oplog

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
)

// group is three masters in one process over TCP.
type group struct {
	t         testing.TB
	peers     []Peer
	dirs      map[string]string
	listeners map[string]net.Listener
	machines  map[string]*table
	logs      map[string]*Log
	network   *network
	patient   string // who notices late that it was cut off, or ""
}

// network lets masters be cut off from the others.
type network struct {
	mu    sync.Mutex
	cut   string                // the address of who is cut off, or ""
	conns map[string][]net.Conn // by the address of who opened them, and of who accepted them
}

func (n *network) dialer(from string) DialFunc {
	return func(to string, timeout time.Duration) (net.Conn, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.cut == from || n.cut == to {
			return nil, fmt.Errorf("no way from %s to %s", from, to)
		}
		conn, err := dialTCP(to, timeout)
		if err == nil {
			n.conns[from] = append(n.conns[from], conn)
			n.conns[to] = append(n.conns[to], conn)
		}
		return conn, err
	}
}

// cutOff isolates a master; "" mends the network.
func (n *network) cutOff(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = addr
	for _, conn := range n.conns[addr] {
		_ = conn.Close()
	}
	delete(n.conns, addr)
}

func startGroup(t testing.TB) *group {
	g := &group{
		t: t, dirs: map[string]string{}, listeners: map[string]net.Listener{}, machines: map[string]*table{}, logs: map[string]*Log{},
		network: &network{conns: map[string][]net.Conn{}},
	}
	for _, id := range []string{"m1", "m2", "m3"} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		g.listeners[id] = listener
		g.peers = append(g.peers, Peer{ID: id, Addr: listener.Addr().String()})
		g.dirs[id] = t.TempDir()
	}
	for _, peer := range g.peers {
		g.start(peer.ID)
	}
	return g
}

func (g *group) start(id string) {
	g.t.Helper()
	machine := newTable()
	cfg := testConfig(g.t, g.dirs[id], machine)
	cfg.ID, cfg.Peers, cfg.ElectionTimeout = id, g.peers, 300*time.Millisecond
	cfg.trailing, cfg.SegmentBytes = 8, minSegmentBytes
	cfg.Listener = g.listeners[id]
	if id == g.patient {
		cfg.ElectionTimeout = 3 * time.Second
	}
	cfg.Dial = g.network.dialer(g.addr(id))
	delete(g.listeners, id) // at a later start it listens at its old address
	l, err := Open(testContext(g.t), cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = l.Close() })
	g.machines[id], g.logs[id] = machine, l
}

func (g *group) addr(id string) string {
	for _, peer := range g.peers {
		if peer.ID == id {
			return peer.Addr
		}
	}
	return ""
}

func (g *group) stop(id string) {
	g.t.Helper()
	if err := g.logs[id].Close(); err != nil {
		g.t.Fatal(err)
	}
	delete(g.logs, id)
}

// acting waits until one master acts and returns its id.
func (g *group) acting() string {
	g.t.Helper()
	ctx := testContext(g.t)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		for id, l := range g.logs {
			if l.Acting() && l.Linearize(ctx) == nil {
				return id
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			g.t.Fatal("nobody acts")
		}
	}
}

// set has a record acknowledged by whoever acts. A slow disk may cost the acting master its lead at any time; what it
// then sets twice is the same.
func (g *group) set(key, value string) {
	g.t.Helper()
	for {
		_, err := g.logs[g.acting()].Propose(testContext(g.t), []byte(key+"="+value))
		switch gfs.CodeOf(err) {
		case gfs.CodeNone:
			return
		case gfs.CodeNotActing, gfs.CodeOutcomeUnknown, gfs.CodeUnavailable:
		default:
			g.t.Fatal(err)
		}
	}
}

// rest is what somebody does who was refused, before the next try: without it a few of them take the whole machine, and
// an election that would end the refusals takes a minute.
func rest(stop <-chan struct{}) {
	select {
	case <-stop:
	case <-time.After(time.Millisecond):
	}
}

// await waits until a master has applied as much as another.
func (g *group) await(id string, want map[string]string) {
	g.t.Helper()
	ctx := testContext(g.t)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !maps.Equal(g.machines[id].state(), want) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			g.t.Fatalf("%s does not catch up: %+v", id, g.logs[id].Stats())
		}
	}
}

func TestAnotherMasterTakesOver(t *testing.T) {
	g := startGroup(t)
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	stop := make(chan struct{})
	logs := maps.Clone(g.logs)
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := 0; !isClosed(stop); i++ {
				for id, l := range logs {
					key := fmt.Sprintf("w%d-%d-%s", w, i, id)
					_, err := l.Propose(t.Context(), []byte(key+"=1"))
					switch code := gfs.CodeOf(err); code {
					case gfs.CodeNone:
						mu.Lock()
						acknowledged[key] = true
						mu.Unlock()
					case gfs.CodeNotActing, gfs.CodeOutcomeUnknown, gfs.CodeUnavailable, gfs.CodeBusy:
						rest(stop)
					default:
						t.Errorf("propose: %v", err)
					}
				}
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(acknowledged) }
	progress := func(more int) {
		t.Helper()
		ctx, from := testContext(t), count()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for count() < from+more {
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("%d records acknowledged, want %d", count(), from+more)
			}
		}
	}
	first := g.acting()
	progress(100)
	for id, l := range g.logs {
		if id == first {
			continue
		}
		if _, err := l.Propose(t.Context(), []byte("x=1")); !errors.Is(err, gfs.ErrNotActing) {
			t.Errorf("propose at the standby %s: %v, want not acting", id, err)
		}
		if err := l.Linearize(t.Context()); !errors.Is(err, gfs.ErrNotActing) {
			t.Errorf("linearize at the standby %s: %v, want not acting", id, err)
		}
	}
	term := g.logs[first].Term()
	g.stop(first)
	begin := time.Now()
	second := g.acting()
	t.Logf("%s took over from %s after %v", second, first, time.Since(begin))
	if got := g.logs[second].Term(); got <= term {
		t.Errorf("term %d follows %d", got, term)
	}
	progress(100)
	close(stop)
	writers.Wait()

	g.start(first)
	want := g.machines[second].state()
	for key := range acknowledged {
		if want[key] != "1" {
			t.Errorf("%s was acknowledged and is lost", key)
		}
	}
	g.await(first, want)
	if id, addr := g.logs[first].Leader(); id != g.acting() || addr == "" {
		t.Errorf("%s takes %q at %q for the leader, it is %s", first, id, addr, g.acting())
	}
}

// A standby whose log ends before the others' begins is sent a checkpoint.
func TestStandbyIsSentACheckpoint(t *testing.T) {
	g := startGroup(t)
	leader := g.acting()
	away := "m1"
	if leader == away {
		away = "m2"
	}
	g.stop(away)
	bulk := strings.Repeat("v", 100<<10) // the log drops whole segments, of 1 MiB here
	want := map[string]string{"last": "1"}
	for round := range 3 {
		for i := range 20 {
			key, value := fmt.Sprintf("k%d", i), fmt.Sprintf("%d%s", round, bulk)
			g.set(key, value)
			want[key] = value
		}
		for _, l := range g.logs { // whoever leads when away comes back
			if err := l.Checkpoint(testContext(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	g.set("last", "1")
	g.start(away)
	g.await(away, want)
	if g.machines[away].restored == 0 {
		t.Error("the standby was not sent a checkpoint: the test shows less than it should")
	}
	g.stop(away)
	g.start(away)
	g.await(away, want)
}

func TestTransfer(t *testing.T) {
	g := startGroup(t)
	leader := g.acting()
	to := "m1"
	if leader == to {
		to = "m2"
	}
	if err := g.logs[leader].Transfer(testContext(t), "m9"); gfs.CodeOf(err) != gfs.CodeInvalid {
		t.Errorf("transfer to nobody: %v", err)
	}
	mustPropose(t, g.logs[leader], "k=v")
	if err := g.logs[leader].Transfer(testContext(t), to); err != nil {
		t.Fatal(err)
	}
	awaitActing(t, g.logs[to])
	if got := g.machines[to].state()["k"]; got != "v" {
		t.Errorf("the new acting master has %q", got)
	}
}

// What is no master of this cluster is cut off before the Raft library reads a byte of it.
func TestStrangersAreCutOff(t *testing.T) {
	g := startGroup(t)
	leader := g.acting()
	addr := g.addr(leader)
	for _, hello := range []string{strings.Repeat("GET / HTTP/1.1\r\n", 10), string(greeting("other")) + "\x00"} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, hello); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(conn); len(answer) > 0 || errors.Is(err, net.ErrClosed) {
			t.Errorf("a stranger was answered %q (%v)", answer, err)
		} else if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() {
			t.Error("a stranger was not cut off")
		}
		_ = conn.Close()
	}
	mustPropose(t, g.logs[leader], "k=v")
}

// While masters are cut off one after the other, a read that was linearized never misses a write that was
// acknowledged before it began, wherever either took place.
func TestReadsAreLinearizableWhileMastersAreCutOff(t *testing.T) {
	g := startGroup(t)
	g.acting()
	var written, readers atomic.Int64
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for next := 1; !isClosed(stop); {
			for _, l := range g.logs {
				if _, err := l.Propose(t.Context(), fmt.Appendf(nil, "n=%d", next)); err == nil {
					written.Store(int64(next))
					next++
				} else {
					rest(stop)
				}
			}
		}
	})
	for id, l := range g.logs {
		running.Go(func() {
			for !isClosed(stop) {
				want := written.Load()
				if err := l.Linearize(t.Context()); err != nil {
					rest(stop)
					continue
				}
				got, err := strconv.ParseInt("0"+g.machines[id].state()["n"], 10, 64)
				if err != nil || got < want {
					t.Errorf("%s reads %d (%v) after %d was acknowledged", id, got, err, want)
					return
				}
				readers.Add(1)
			}
		})
	}
	for range 3 {
		leader, before := g.acting(), written.Load()
		g.network.cutOff(g.addr(leader))
		ctx := testContext(t)
		tick := time.NewTicker(5 * time.Millisecond)
		for other := leader; other == leader || written.Load() < before+20; other = g.acting() {
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatal("nobody took over")
			}
		}
		tick.Stop()
		g.network.cutOff("")
	}
	close(stop)
	running.Wait()
	t.Logf("%d writes, %d reads", written.Load(), readers.Load())
	want := g.machines[g.acting()].state()
	for id := range g.logs {
		g.await(id, want)
	}
}

// A master that was replaced and does not know it yet serves no reads.
func TestReplacedMasterServesNoReads(t *testing.T) {
	g := startGroup(t)
	old := g.acting()
	g.stop(old)
	g.patient = old
	g.start(old)
	for leader := g.acting(); leader != old; leader = g.acting() {
		mustPropose(t, g.logs[leader], "n=0")
		g.await(old, g.machines[leader].state())
		_ = g.logs[leader].Transfer(testContext(t), old) // tried again until it acts
	}
	g.network.cutOff(g.addr(old))
	replaced := g.logs[old]
	delete(g.logs, old)
	g.set("n", "1")
	if !replaced.Acting() {
		t.Fatal("the old master knows already: the test shows less than it should")
	}
	if err := replaced.Linearize(testContext(t)); !errors.Is(err, gfs.ErrNotActing) {
		t.Errorf("linearize at the replaced master: %v, want not acting; it has n=%s", err, g.machines[old].state()["n"])
	}
	if _, err := replaced.Propose(testContext(t), []byte("n=2")); err == nil {
		t.Error("the replaced master acknowledged a record")
	}
	g.network.cutOff("")
}
