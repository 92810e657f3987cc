package oplog

import (
	"context"
	"flag"
	"fmt"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimFolder); dir != "" {
		runVictim(dir)
		return
	}
	flag.Parse()
	explicit := false
	flag.Visit(func(f *flag.Flag) { explicit = explicit || f.Name == "rapid.checks" })
	if !explicit {
		// Each check opens and closes real logs, with real syncs.
		if err := flag.Set("rapid.checks", "12"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// table is a small replicated machine: records are "key=value", the outcome is the value before.
type table struct {
	mu       sync.Mutex
	rows     map[string]string
	index    uint64
	applied  int    // records
	restored int    // pages
	tear     string // a key at which a view fails
	hold     chan struct{}
}

func newTable() *table { return &table{rows: map[string]string{}} }

func (m *table) Apply(index uint64, records [][]byte) []any {
	m.mu.Lock()
	hold := m.hold
	m.mu.Unlock()
	if hold != nil {
		<-hold
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if index <= m.index {
		panic(fmt.Sprintf("entry %d after %d", index, m.index))
	}
	m.index = index
	outcomes := make([]any, len(records))
	for i, record := range records {
		key, value, _ := strings.Cut(string(record), "=")
		outcomes[i] = m.rows[key]
		m.rows[key] = value
		m.applied++
	}
	return outcomes
}

func (m *table) View() View {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &tableView{rows: maps.Clone(m.rows), tear: m.tear}
}

func (m *table) Restore(pages iter.Seq2[Page, error]) error {
	rows := map[string]string{}
	for page, err := range pages {
		if err != nil {
			return err
		}
		rows[string(page.Key)] = string(page.Value)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows, m.restored, m.index = rows, len(rows), 0
	return nil
}

func (m *table) state() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.rows)
}

type tableView struct {
	rows map[string]string
	tear string
}

func (v *tableView) Pages() iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		var key, value []byte // one buffer for all: the log must not keep a page
		for _, name := range slices.Sorted(maps.Keys(v.rows)) {
			key = append(key[:0], name...)
			value = append(value[:0], v.rows[name]...)
			var err error
			if name == v.tear {
				err = gfs.Errorf(gfs.CodeInternal, "torn at %s", name)
			}
			if !yield(Page{Key: key, Value: value}, err) {
				return
			}
		}
	}
}

func (v *tableView) Release() {}

// testConfig is a master that stands alone in dir, quick to start, that fails the test if it crashes.
func testConfig(t testing.TB, dir string, machine Machine) Config {
	return Config{
		Cluster: "test", ID: "m1", Dir: dir, Machine: machine,
		ElectionTimeout: 10 * time.Millisecond,
		SegmentBytes:    2 << 20,
		Crash:           func(err error) { t.Errorf("crash: %v", err) },
	}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// openActing opens a log and waits until it acts.
func openActing(t testing.TB, cfg Config) *Log {
	t.Helper()
	l, err := Open(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	awaitActing(t, l)
	return l
}

func awaitActing(t testing.TB, l *Log) {
	t.Helper()
	ctx := testContext(t)
	for !l.Acting() {
		select {
		case <-l.Changes():
		case <-ctx.Done():
			t.Fatalf("does not act: %+v", l.Stats())
		}
	}
}

func mustPropose(t testing.TB, l *Log, record string) any {
	t.Helper()
	outcome, err := l.Propose(testContext(t), []byte(record))
	if err != nil {
		t.Fatal(err)
	}
	return outcome
}

func mustClose(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
