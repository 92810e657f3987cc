package oplog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"pgregory.net/rapid"
)

// Whatever is proposed, checkpointed and reopened, the state is that of a plain map.
func TestStateSurvivesReopening(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "log")
		if err != nil {
			rt.Fatal(err)
		}
		model := map[string]string{}
		machine := newTable()
		l := openActing(t, testConfig(t, dir, machine))
		defer func() { mustClose(t, l) }()
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"propose", "propose", "burst", "checkpoint", "reopen"}).Draw(rt, "op") {
			case "propose":
				key := rapid.StringMatching(`[a-d]`).Draw(rt, "key")
				value := rapid.StringN(0, 20, -1).Draw(rt, "value")
				if before := mustPropose(t, l, key+"="+value); before != model[key] {
					rt.Fatalf("%s was %q, want %q", key, before, model[key])
				}
				model[key] = value
			case "burst":
				count := rapid.IntRange(1, 50).Draw(rt, "count")
				var callers sync.WaitGroup
				for i := range count {
					key := fmt.Sprintf("burst%d", i)
					model[key] = fmt.Sprint(count)
					callers.Go(func() { mustPropose(t, l, key+"="+fmt.Sprint(count)) })
				}
				callers.Wait()
			case "checkpoint":
				if err := l.Checkpoint(testContext(t)); err != nil {
					rt.Fatal(err)
				}
			case "reopen":
				mustClose(t, l)
				machine = newTable()
				l = openActing(t, testConfig(t, dir, machine))
			}
			if got := machine.state(); !maps.Equal(got, model) {
				rt.Fatalf("state %v, want %v", got, model)
			}
		}
	})
}

func TestProposersShareEntries(t *testing.T) {
	const callers, each = 64, 20
	l := openActing(t, testConfig(t, t.TempDir(), newTable()))
	before := l.Stats()
	var running sync.WaitGroup
	for c := range callers {
		running.Go(func() {
			last := ""
			for i := range each {
				value := fmt.Sprint(i)
				if got := mustPropose(t, l, fmt.Sprintf("caller%d=%s", c, value)); got != last {
					t.Errorf("caller %d: value before was %q, want %q", c, got, last)
				}
				last = value
			}
		})
	}
	running.Wait()
	after := l.Stats()
	entries, records := after.Entries-before.Entries, after.Records-before.Records
	if records != callers*each {
		t.Errorf("%d records, want %d", records, callers*each)
	}
	if entries*4 > records {
		t.Errorf("%d entries for %d records of %d callers: they do not share them", entries, records, callers)
	}
	if got := after.LastIndex - before.LastIndex; got != entries {
		t.Errorf("the log grew by %d entries, %d were sent", got, entries)
	}
}

func TestProposalsOfOneCallerStayInOrder(t *testing.T) {
	machine := newTable()
	l := openActing(t, testConfig(t, t.TempDir(), machine))
	const count = 5000
	answers := make(chan int, count)
	for i := range count {
		l.ProposeAsync(fmt.Appendf(nil, "k=%d", i), func(outcome any, err error) {
			if want := fmt.Sprint(i - 1); err != nil || i > 0 && outcome != want {
				t.Errorf("record %d: outcome %q, %v, want %q", i, outcome, err, want)
			}
			answers <- i
		})
	}
	for want := range count {
		if got := <-answers; got != want {
			t.Fatalf("answer %d came in place of %d", got, want)
		}
	}
}

func TestFullQueueIsBusy(t *testing.T) {
	machine := newTable()
	machine.hold = make(chan struct{})
	l := openActing(t, testConfig(t, t.TempDir(), machine))
	var answered sync.WaitGroup
	var busy, accepted atomic.Int64
	record := append([]byte("k="), make([]byte, 100<<10)...)
	for range 3000 { // 300 MiB: more than all of queue, flights and Raft take
		answered.Add(1)
		l.ProposeAsync(record, func(_ any, err error) {
			defer answered.Done()
			switch {
			case errors.Is(err, gfs.ErrBusy):
				busy.Add(1)
			case err == nil:
				accepted.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	if busy.Load() == 0 {
		t.Error("nothing was refused")
	}
	close(machine.hold)
	answered.Wait()
	if int(accepted.Load()) != machine.applied {
		t.Errorf("%d were accepted, %d applied", accepted.Load(), machine.applied)
	}
}

func TestContextEndsAProposal(t *testing.T) {
	machine := newTable()
	machine.hold = make(chan struct{})
	l := openActing(t, testConfig(t, t.TempDir(), machine))
	ctx, cancel := context.WithTimeout(testContext(t), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Propose(ctx, []byte("sent=1")); !errors.Is(err, gfs.ErrOutcomeUnknown) {
		t.Errorf("a sent record whose caller gave up: %v, want outcome unknown", err)
	}
	if _, err := l.Propose(ctx, []byte("never=1")); !errors.Is(err, gfs.ErrUnavailable) {
		t.Errorf("a record of an ended context: %v, want unavailable", err)
	}
	if _, err := l.Propose(testContext(t), make([]byte, MaxRecordBytes+1)); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("a record that is too long: %v, want invalid", err)
	}
	close(machine.hold)
	if err := l.Barrier(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if got := machine.state(); got["sent"] != "1" || got["never"] != "" {
		t.Errorf("state %v", got)
	}
	if _, err := l.Propose(testContext(t), append([]byte("long="), make([]byte, MaxRecordBytes-5)...)); err != nil {
		t.Errorf("the longest record: %v", err)
	}
}

func TestLinearizeSeesWhatWasAcknowledged(t *testing.T) {
	machine := newTable()
	l := openActing(t, testConfig(t, t.TempDir(), machine))
	var running sync.WaitGroup
	for c := range 8 {
		running.Go(func() {
			for i := range 50 {
				mustPropose(t, l, fmt.Sprintf("c%d=%d", c, i))
				if err := l.Linearize(testContext(t)); err != nil {
					t.Error(err)
				}
				if got := machine.state()[fmt.Sprintf("c%d", c)]; got != fmt.Sprint(i) {
					t.Errorf("caller %d reads %q after writing %d", c, got, i)
				}
			}
		})
	}
	running.Wait()
}

// What is committed and not applied yet holds up a read.
func TestLinearizeWaitsForTheMachine(t *testing.T) {
	machine := newTable()
	l := openActing(t, testConfig(t, t.TempDir(), machine))
	machine.mu.Lock()
	machine.hold = make(chan struct{})
	machine.mu.Unlock()
	committed := l.raft.CommitIndex()
	answered := make(chan error, 1)
	l.ProposeAsync([]byte("k=v"), func(_ any, err error) { answered <- err })
	for ctx := testContext(t); l.raft.CommitIndex() == committed; runtime.Gosched() {
		if ctx.Err() != nil {
			t.Fatal("nothing was committed")
		}
	}
	ctx, cancel := context.WithTimeout(testContext(t), 20*time.Millisecond)
	defer cancel()
	if err := l.Linearize(ctx); !errors.Is(err, gfs.ErrUnavailable) {
		t.Errorf("a read before the record was applied: %v, want it to wait", err)
	}
	close(machine.hold)
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if err := l.Linearize(testContext(t)); err != nil {
		t.Error(err)
	}
}

func TestClosedLogRefuses(t *testing.T) {
	l := openActing(t, testConfig(t, t.TempDir(), newTable()))
	mustClose(t, l)
	mustClose(t, l)
	_, err := l.Propose(testContext(t), []byte("k=v"))
	for what, err := range map[string]error{
		"propose": err, "barrier": l.Barrier(testContext(t)), "linearize": l.Linearize(testContext(t)),
		"checkpoint": l.Checkpoint(testContext(t)), "transfer": l.Transfer(testContext(t), ""),
	} {
		if code := gfs.CodeOf(err); code != gfs.CodeUnavailable && code != gfs.CodeNotActing {
			t.Errorf("%s on a closed log: %v", what, err)
		}
	}
	if acting := <-l.Changes(); acting {
		t.Error("the last change says that a closed log acts")
	}
}

func TestStartIsQuick(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(t, dir, newTable())
	cfg.ElectionTimeout = 0
	mustClose(t, openActing(t, cfg))
	cfg.Machine = newTable()
	begin := time.Now()
	l := openActing(t, cfg)
	mustPropose(t, l, "k=v")
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("a lone master took %v from start to its first record", took)
	} else {
		t.Logf("first record after %v", took)
	}
}

func TestFolderIsGuarded(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(t, dir, newTable())
	l := openActing(t, cfg)
	refuse := func(what string, want error, change func(*Config)) {
		t.Helper()
		other := testConfig(t, dir, newTable())
		change(&other)
		got, err := Open(testContext(t), other)
		if err == nil {
			_ = got.Close()
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	refuse("a twin", gfs.ErrInUse, func(*Config) {})
	mustClose(t, l)
	refuse("another cluster", gfs.ErrWrongCluster, func(c *Config) { c.Cluster = "other" })
	refuse("another master", os.ErrInvalid, func(c *Config) { c.ID = "m2" })
	refuse("a bad name", os.ErrInvalid, func(c *Config) { c.ID = "m.1" })
	refuse("two masters", os.ErrInvalid, func(c *Config) { c.Peers = []Peer{{"m1", "127.0.0.1:1"}, {"m2", "127.0.0.1:2"}} })
	refuse("not among its peers", os.ErrInvalid, func(c *Config) { c.Peers = []Peer{{"m2", "127.0.0.1:1"}} })
	refuse("a group, later", os.ErrInvalid, func(c *Config) {
		c.Listen = "127.0.0.1:0"
		c.Peers = []Peer{{"m1", "127.0.0.1:1"}, {"m2", "127.0.0.1:2"}, {"m3", "127.0.0.1:3"}}
	})
	if err := os.Rename(filepath.Join(dir, identityFile), filepath.Join(dir, "aside")); err != nil {
		t.Fatal(err)
	}
	refuse("no identity", gfs.ErrCorrupt, func(*Config) {})
	if err := os.Rename(filepath.Join(dir, "aside"), filepath.Join(dir, identityFile)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, raftFolder, walFolder)); err != nil {
		t.Fatal(err)
	}
	refuse("the log gone", gfs.ErrCorrupt, func(*Config) {})
}
