package bench

import (
	"context"
	"fmt"
	"path"
	"time"

	"github.com/cairnfs/cairn/clientlib"
)

const (
	// MetaInFlight is how many metadata requests are in flight in the stated figures.
	MetaInFlight = 64
	// statFiles is how many files Stat asks about.
	statFiles = 1000
)

// Stat is clients asking for the status of files at random, inFlight requests at a time over all clients. 1 to
// MaxClients, 1 to MaxInFlight.
func (c Config) Stat(clients, inFlight int) Case {
	s := &site{}
	name := fmt.Sprintf("stat-%dx%d", clients, inFlight)
	return Case{
		Name: name, ServerCPU: c.ServerCPU, Limit: c.limit(LimitEcho, inFlight), Close: s.close,
		Prepare: func(ctx context.Context) error {
			if err := s.open(ctx, c, name, clients); err != nil {
				return err
			}
			files := s.path("files")
			if err := s.clients[0].Mkdir(ctx, files, 0o755); err != nil {
				return err
			}
			return s.create(ctx, files, statFiles, inFlight).FirstError
		},
		Run: func(ctx context.Context, watch *Stopwatch) (*Tally, error) {
			watch.Start()
			tally := s.each(inFlight, func(i int, client *clientlib.Client, tally *Tally) {
				random := c.random(i)
				timed(ctx, Share(c.Ops, i, inFlight), tally, func(int64) error {
					_, err := client.Stat(ctx, s.path("files/%s", fileName(random.Int64N(statFiles))))
					return err
				})
			})
			watch.Stop()
			return tally, nil
		},
	}
}

// Create is clients making empty files in one directory, inFlight at a time over all clients; each is durable in the
// operation log when it counts. 1 to MaxClients, 1 to MaxInFlight.
func (c Config) Create(clients, inFlight int) Case {
	s := &site{}
	name := fmt.Sprintf("create-%dx%d", clients, inFlight)
	return Case{
		Name: name, ServerCPU: c.ServerCPU, Limit: c.limit(LimitEcho, inFlight), Durability: SyncLog, Close: s.close,
		Prepare: func(ctx context.Context) error { return s.open(ctx, c, name, clients) },
		Run: func(ctx context.Context, watch *Stopwatch) (*Tally, error) {
			dir := s.path("run-%d", s.newRun())
			if err := s.clients[0].Mkdir(ctx, dir, 0o755); err != nil {
				return nil, err
			}
			watch.Start()
			tally := s.create(ctx, dir, c.Ops, inFlight)
			watch.Stop()
			return tally, s.clients[0].RemoveAll(ctx, dir)
		},
	}
}

// create makes n empty files in dir, named 0 to n-1 by fileName.
func (s *site) create(ctx context.Context, dir string, n int64, inFlight int) *Tally {
	return s.each(inFlight, func(i int, client *clientlib.Client, tally *Tally) {
		timed(ctx, Share(n, i, inFlight), tally, func(k int64) error {
			f, err := client.Create(ctx, path.Join(dir, fileName(int64(i)+k*int64(inFlight))))
			if err != nil {
				return err
			}
			return f.Close()
		})
	})
}

// fileName is 20 bytes long, as the names in the stated figures.
func fileName(i int64) string { return fmt.Sprintf("file-%015d", i) }

// timed does n operations, numbered from 0, one after the other.
func timed(ctx context.Context, n int64, tally *Tally, operation func(k int64) error) {
	for k := range n {
		if ctx.Err() != nil || tally.hopeless() {
			return
		}
		begin := time.Now()
		if err := operation(k); err != nil {
			tally.Fail(err)
			continue
		}
		tally.Latency.Record(time.Since(begin))
		tally.Ops++
	}
}
