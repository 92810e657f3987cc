package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cairnfs/cairn/clientlib"
)

// RandomInFlight is how many random reads a client has in flight in the stated figures.
const RandomInFlight = 4

// Write is clients writing a file each, from Create to the Close that waits until all is acknowledged. 1 to
// MaxClients.
func (c Config) Write(clients int) Case {
	s := &site{}
	noise := c.noise(noiseBytes)
	name := c.writing("write-%d", clients)
	return Case{
		Name: name, ServerCPU: c.ServerCPU, Limit: c.limit(LimitChain, clients), Durability: c.durability(), Close: s.close,
		Prepare: func(ctx context.Context) error { return s.open(ctx, c, name, clients) },
		Run: func(ctx context.Context, watch *Stopwatch) (*Tally, error) {
			run := s.newRun()
			names := make([]string, clients)
			for i := range names {
				names[i] = s.path("run-%d-%d", run, i)
			}
			watch.Start()
			tally := s.each(clients, func(i int, client *clientlib.Client, tally *Tally) {
				if err := s.write(ctx, client, names[i], Share(c.Bytes, i, clients), noise, tally); err != nil {
					tally.Fail(err)
				}
			})
			watch.Stop()
			if tally.Errors > 0 {
				return tally, nil // a file may be missing; close removes what is there
			}
			return tally, s.drop(ctx, names...)
		},
	}
}

// write makes a file of n bytes. Its bytes count only if all are acknowledged.
func (s *site) write(ctx context.Context, client *clientlib.Client, name string, n int64, noise []byte, tally *Tally) error {
	f, err := client.Create(ctx, name, s.config.fileOptions()...)
	if err != nil {
		return err
	}
	f = f.WithContext(ctx)
	for done := int64(0); done < n; {
		at := int(done % int64(len(noise)))
		piece := noise[at : at+int(min(ioBytes, n-done, int64(len(noise)-at)))]
		begin := time.Now()
		if _, err := f.Write(piece); err != nil {
			return errors.Join(err, f.Close())
		}
		tally.Latency.Record(time.Since(begin))
		done += int64(len(piece))
	}
	begin := time.Now()
	if err := f.Close(); err != nil {
		return err
	}
	tally.Latency.Record(time.Since(begin))
	tally.Bytes += n
	return nil
}

// Read is clients reading a file each from beginning to end. The files are written and read once beforehand, so that
// they are in the servers' page cache. 1 to MaxClients.
func (c Config) Read(clients int) Case {
	s := &site{}
	name := fmt.Sprintf("read-%d", clients)
	return Case{
		Name: name, ServerCPU: c.ServerCPU, Limit: c.limit(LimitRead, clients), Close: s.close,
		Prepare: func(ctx context.Context) error { return s.prepareFiles(ctx, c, name, clients) },
		Run: func(ctx context.Context, watch *Stopwatch) (*Tally, error) {
			watch.Start()
			tally := s.each(clients, func(i int, client *clientlib.Client, tally *Tally) {
				if err := readAll(ctx, client, s.path("file-%d", i), Share(c.Bytes, i, clients), tally); err != nil {
					tally.Fail(err)
				}
			})
			watch.Stop()
			return tally, nil
		},
	}
}

// prepareFiles writes a file a client and reads it once.
func (s *site) prepareFiles(ctx context.Context, c Config, name string, clients int) error {
	if err := s.open(ctx, c, name, clients); err != nil {
		return err
	}
	noise := c.noise(noiseBytes)
	tally := s.each(clients, func(i int, client *clientlib.Client, tally *Tally) {
		name, n := s.path("file-%d", i), Share(c.Bytes, i, clients)
		err := s.write(ctx, client, name, n, noise, tally)
		if err == nil {
			err = readAll(ctx, client, name, n, tally)
		}
		if err != nil {
			tally.Fail(err)
		}
	})
	return tally.FirstError
}

func readAll(ctx context.Context, client *clientlib.Client, name string, want int64, tally *Tally) (err error) {
	f, err := client.Open(ctx, name)
	if err != nil {
		return err
	}
	f = f.WithContext(ctx)
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := make([]byte, ioBytes)
	var n int64
	for {
		begin := time.Now()
		k, err := f.Read(buf)
		n += int64(k)
		switch {
		case err == io.EOF && n == want:
			tally.Bytes += n
			return nil
		case err == io.EOF:
			return fmt.Errorf("%s ends after %d bytes, %d were written and acknowledged", name, n, want)
		case err != nil:
			return err
		}
		tally.Latency.Record(time.Since(begin))
	}
}

// RandomRead is clients reading whole blocks at random places of a file each, inFlight at a time, until the bytes of
// a run are read. The files are prepared as for Read. 1 to MaxClients, 1 to MaxInFlight.
func (c Config) RandomRead(clients, inFlight int) Case {
	s := &site{}
	name := fmt.Sprintf("read-random-%dx%d", clients, inFlight)
	c.Bytes = max(c.Bytes, int64(clients)*randomBytes) // a block in each file
	reads := c.Bytes / randomBytes
	return Case{
		Name: name, ServerCPU: c.ServerCPU, Limit: c.limit(LimitRandom, clients*inFlight), Close: s.close,
		Prepare: func(ctx context.Context) error { return s.prepareFiles(ctx, c, name, clients) },
		Run: func(ctx context.Context, watch *Stopwatch) (_ *Tally, err error) {
			files := make([]*clientlib.File, clients)
			for i := range files {
				f, err := s.clients[i].Open(ctx, s.path("file-%d", i))
				if err != nil {
					return nil, err
				}
				defer func() { err = errors.Join(err, f.Close()) }()
				files[i] = f.WithContext(ctx)
			}
			watch.Start()
			workers := clients * inFlight
			tally := s.each(workers, func(i int, _ *clientlib.Client, tally *Tally) {
				blocks := Share(c.Bytes, i%clients, clients) / randomBytes
				c.randomReads(ctx, files[i%clients], i, blocks, Share(reads, i, workers), tally)
			})
			watch.Stop()
			return tally, nil
		},
	}
}

// randomReads reads n of a file's first blocks at random.
func (c Config) randomReads(ctx context.Context, f *clientlib.File, worker int, blocks, n int64, tally *Tally) {
	random, buf := c.random(worker), make([]byte, randomBytes)
	for range n {
		if ctx.Err() != nil || tally.hopeless() {
			return
		}
		begin := time.Now()
		if _, err := f.ReadAt(buf, random.Int64N(blocks)*randomBytes); err != nil {
			tally.Fail(err)
			continue
		}
		tally.Latency.Record(time.Since(begin))
		tally.Ops++
		tally.Bytes += randomBytes
	}
}
