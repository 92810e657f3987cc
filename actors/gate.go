package actors

import (
	"sync/atomic"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Gate bounds what is admitted and not yet done. Mailboxes are unbounded, so the edges where requests come in
// refuse beyond a limit instead of blocking a sender. It is safe for concurrent use and never blocks.
type Gate struct {
	what  string
	limit int64
	inUse atomic.Int64
}

// NewGate makes a gate. what names what is counted, in the plural, for the error's text ("requests to the
// master"); limit is how many may be inside at once, at least 1.
func NewGate(what string, limit int) *Gate {
	if limit < 1 {
		panic("actors: a gate's limit is at least 1")
	}
	return &Gate{what: what, limit: int64(limit)}
}

// Enter admits one, or fails with ErrBusy naming the limit. leave must be called once when the work is done, from
// any goroutine; a second call is a bug and panics.
func (g *Gate) Enter() (leave func(), err error) {
	if g.inUse.Add(1) > g.limit {
		g.inUse.Add(-1)
		return nil, gfs.Errorf(gfs.CodeBusy, "%d %s in flight is the limit; try again after a pause", g.limit, g.what)
	}
	var left atomic.Bool
	return func() {
		if left.Swap(true) {
			panic("actors: left a gate twice")
		}
		g.inUse.Add(-1)
	}, nil
}

// InUse is the number inside; for a moment it may be seen above the limit while one is refused.
func (g *Gate) InUse() int { return int(g.inUse.Load()) }

// Limit is the number that may be inside.
func (g *Gate) Limit() int { return int(g.limit) }
