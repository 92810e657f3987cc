package chaos

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
)

// watch reads the processes' logs while they are written: they say what goes on at each chunk. It is an io.Writer,
// safe for concurrent use.
type watch struct {
	begin time.Time
	to    io.Writer

	mu     sync.Mutex
	at     map[gfs.ChunkHandle]phaseSince
	chains map[gfs.ChunkHandle][]gfs.ServerID
	moved  chan struct{} // closed when at changes
}

// phaseSince is a phase, and when it was last heard of.
type phaseSince struct {
	phase Phase
	since time.Time
}

// phaseTime is how long a phase is believed that nothing more is heard of: not each complaint leads to anything.
const phaseTime = 2 * time.Second

func newWatch(to io.Writer) *watch {
	return &watch{begin: time.Now(), to: to, at: map[gfs.ChunkHandle]phaseSince{}, chains: map[gfs.ChunkHandle][]gfs.ServerID{}, moved: make(chan struct{})}
}

// says is which phase of its chunk a line in a log begins; empty: that nothing special goes on any more.
var says = []struct {
	text  string
	phase Phase
}{
	{"msg=complaint ", Reconfiguring},
	{`msg="order carried out" actor=lease`, Reconfiguring}, // a Prepare; see Write
	{"msg=closing ", Closing},
	{"msg=copying ", Joining},
	{"msg=lease.granted ", ""},
	{"msg=chunk.closed ", ""},
	{`msg="replica not brought in" `, ""},
}

// Write implements io.Writer.
func (w *watch) Write(p []byte) (int, error) {
	elapsed := time.Since(w.begin)
	w.mu.Lock()
	defer w.mu.Unlock()
	for line := range bytes.Lines(p) {
		if _, err := fmt.Fprintf(w.to, "%9.3f %s", elapsed.Seconds(), line); err != nil {
			return 0, err
		}
		w.read(string(line))
	}
	return len(p), nil
}

func (w *watch) read(line string) {
	for _, s := range says {
		if !strings.Contains(line, s.text) {
			continue
		}
		if s.phase == Reconfiguring && strings.Contains(line, "order carried out") && !strings.Contains(line, "op=prepare") {
			return
		}
		_, rest, found := strings.Cut(line, " chunk=")
		if !found {
			return
		}
		hex, _, _ := strings.Cut(rest, " ")
		handle, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err != nil {
			return
		}
		if s.phase == "" {
			delete(w.at, gfs.ChunkHandle(handle))
		} else {
			w.at[gfs.ChunkHandle(handle)] = phaseSince{s.phase, time.Now()}
		}
		if _, members, found := strings.Cut(line, `detail="members `); found {
			members, _, _ = strings.Cut(members, `"`)
			members, _, _ = strings.Cut(members, ",")
			chain := []gfs.ServerID{}
			for _, id := range strings.Fields(members) {
				chain = append(chain, gfs.ServerID(id))
			}
			w.chains[gfs.ChunkHandle(handle)] = chain
		}
		close(w.moved)
		w.moved = make(chan struct{})
		return
	}
}

// present is what goes on now, and the chain of each chunk's last configuration.
func (w *watch) present() (map[gfs.ChunkHandle]Phase, map[gfs.ChunkHandle][]gfs.ServerID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	phases := map[gfs.ChunkHandle]Phase{}
	for handle, at := range w.at {
		if time.Since(at.since) < phaseTime {
			phases[handle] = at.phase
		}
	}
	return phases, maps.Clone(w.chains)
}

// find is the chain of a chunk that entered a phase since a time, and what tells of a change.
func (w *watch) find(phase Phase, since time.Time) (chain []gfs.ServerID, moved <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for handle, at := range w.at {
		if at.phase == phase && at.since.After(since) && len(w.chains[handle]) > 0 {
			return w.chains[handle], w.moved
		}
	}
	return nil, w.moved
}
