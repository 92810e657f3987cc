package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/messages/gfs"
)

// Append is producers appending records of recordBytes to one file, Config.InFlight of each unacknowledged at a time,
// until the bytes of a run are acknowledged. After each run the file is read back: see maker.check. 1 to MaxClients
// producers; MinRecordBytes to gfs.MaxRecordBytes.
func (c Config) Append(producers, recordBytes int) Case {
	s := &site{}
	m := newMaker(recordBytes, c.noise)
	name := c.writing("append-%s-%dx%d", shortSize(recordBytes), producers, c.InFlight)
	records := max(c.Bytes/int64(recordBytes), int64(producers))
	var limit *Case
	if recordBytes >= gfs.SmallMutationBytes { // smaller ones are about their number
		limit = c.limit(LimitChain, 1)
	}
	return Case{
		Name: name, ServerCPU: c.ServerCPU, Limit: limit, Durability: c.durability(), Close: s.close,
		Prepare: func(ctx context.Context) error { return s.open(ctx, c, name, producers) },
		Run: func(ctx context.Context, watch *Stopwatch) (*Tally, error) {
			run := s.newRun()
			name := s.path("run-%d", run)
			files, err := s.openForAppend(ctx, name)
			if err != nil {
				return nil, err
			}
			held := make([][]acknowledged, producers)
			watch.Start()
			tally := s.each(producers, func(i int, _ *clientlib.Client, tally *Tally) {
				p := producer{file: files[i], maker: m, run: uint64(run), number: uint64(i), inFlight: c.InFlight, tally: tally}
				held[i] = p.produce(ctx, Share(records, i, producers))
			})
			watch.Stop()
			closed := s.each(producers, func(i int, _ *clientlib.Client, tally *Tally) { // at once: each may wait
				if err := files[i].Close(); err != nil {
					tally.Fail(fmt.Errorf("close of producer %d: %w", i, err))
				}
			})
			if tally.Errors == 0 { // a failed append fails the close as well
				tally.Merge(closed)
			}
			if err := s.readBack(ctx, name, m, uint64(run), slices.Concat(held...), tally); err != nil {
				return nil, errors.Join(tally.FirstError, err)
			}
			if tally.Lost+tally.Torn > 0 {
				s.keep = true
				return tally, nil
			}
			return tally, s.drop(ctx, name)
		},
	}
}

// openForAppend makes a file and opens it once a client. What the files do ends when ctx does.
func (s *site) openForAppend(ctx context.Context, name string) (files []*clientlib.File, err error) {
	f, err := s.clients[0].Create(ctx, name, s.config.fileOptions()...)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	for _, client := range s.clients {
		f, err := client.OpenFile(ctx, name, os.O_WRONLY|os.O_APPEND)
		if err != nil {
			for _, f := range files {
				err = errors.Join(err, f.Close())
			}
			return nil, err
		}
		files = append(files, f.WithContext(ctx))
	}
	return files, nil
}

func (s *site) readBack(ctx context.Context, name string, m maker, run uint64, records []acknowledged, tally *Tally) error {
	f, err := s.clients[0].Open(ctx, name)
	if err != nil {
		return err
	}
	found, err := m.check(f.WithContext(ctx), run, records)
	tally.Lost += found.lost
	tally.Torn += found.torn
	if found.first != nil { // weighs more than an operation that failed
		tally.FirstError = fmt.Errorf("in %s, which is kept: %w", name, found.first)
	}
	if err != nil {
		err = fmt.Errorf("read the records back: %w", err)
	}
	return errors.Join(err, f.Close())
}

// producer appends numbered records to a file.
type producer struct {
	file        *clientlib.File
	maker       maker
	run, number uint64
	inFlight    int
	tally       *Tally

	waiting []sent // unacknowledged, the oldest first
	held    []acknowledged
}

// sent is a record under way.
type sent struct {
	pending *clientlib.Pending
	number  uint64
	begin   time.Time
}

// produce appends n records, waits for all of them and returns those that were acknowledged.
func (p *producer) produce(ctx context.Context, n int64) []acknowledged {
	p.held = make([]acknowledged, 0, n)
	record := make([]byte, p.maker.size)
	for i := range uint64(n) {
		for len(p.waiting) > 0 && (len(p.waiting) >= p.inFlight || p.waiting[0].decided()) {
			p.settle(ctx)
		}
		if ctx.Err() != nil || p.tally.hopeless() {
			break
		}
		p.maker.fill(record, stamp{p.run, p.number, i})
		begin := time.Now()
		p.waiting = append(p.waiting, sent{p.file.AppendAsync(ctx, record), i, begin})
	}
	for len(p.waiting) > 0 {
		p.settle(ctx)
	}
	return p.held
}

func (s sent) decided() bool {
	select {
	case <-s.pending.Done():
		return true
	default:
		return false
	}
}

// settle waits for the oldest record under way.
func (p *producer) settle(ctx context.Context) {
	s := p.waiting[0]
	p.waiting = p.waiting[1:]
	offset, err := s.pending.Wait(ctx)
	if err != nil {
		p.tally.Fail(fmt.Errorf("producer %d, record %d: %w", p.number, s.number, err))
		return
	}
	p.tally.Latency.Record(time.Since(s.begin))
	p.tally.Ops++
	p.tally.Bytes += int64(p.maker.size)
	p.held = append(p.held, acknowledged{offset, p.number, s.number})
}

// shortSize writes a size in bytes for a name: 1MiB, 1KiB, 100B.
func shortSize(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", n>>10)
	}
	return fmt.Sprintf("%dB", n)
}
