package dataplane

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages/wire"
)

// goroutines is the Runtime of a process.
type goroutines struct{ wg sync.WaitGroup }

// newGoroutines waits for what it has run when the test is over.
func newGoroutines(t *testing.T) *goroutines {
	g := &goroutines{}
	t.Cleanup(g.wg.Wait)
	return g
}

func (g *goroutines) Go(f func()) { g.wg.Go(f) }

func (*goroutines) WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}

func (*goroutines) Pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (*goroutines) Fetch(ctx context.Context, pool *Pool, address string, op wire.Op, request, reply proto.Message) (*Buffer, error) {
	return Fetch(ctx, pool, address, op, request, reply)
}
