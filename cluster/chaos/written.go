package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"

	"github.com/cairnfs/cairn/clientlib"
)

// How much a round writes.
const (
	appendersEach  = 4         // of the synced file and of the plain one
	appendsPerSync = 16        // of an appender of the plain file
	longEvery      = 8         // one entry of so many may span blocks
	longEntryBytes = 150 << 10 // at most
	writesPerSync  = 8
	sectorBytes    = 512 // what a disk writes in one piece
)

// written is what a round wrote to its files, and what of it has to survive.
type written struct {
	round  int
	seed   uint64
	synced appended // an acknowledgement waits for fsync
	plain  appended // fsync is asked for now and then
	ranges [2]overwritten
}

func newWritten(round int, seed uint64) *written {
	w := &written{round: round, seed: seed}
	for i, name := range []string{"synced", "plain"} {
		w.ranges[i] = overwritten{path: fmt.Sprintf("/ranges-%s-%d", name, round), durable: i == 0}
	}
	w.synced = appended{path: fmt.Sprintf("/appends-synced-%d", round), durable: true, entries: map[entryID]promise{}}
	w.plain = appended{path: fmt.Sprintf("/appends-plain-%d", round), entries: map[entryID]promise{}}
	return w
}

func (w *written) paths() []string {
	return []string{w.synced.path, w.plain.path, w.ranges[0].path, w.ranges[1].path}
}

func (w *written) String() string {
	synced, all := w.plain.count()
	_, durable := w.synced.count()
	return fmt.Sprintf("%d appends to the synced file, %d of %d to the plain one synced, %d and %d ranges written", durable,
		synced, all, w.ranges[0].last, w.ranges[1].last)
}

// create makes the files; the ranges are written once.
func (w *written) create(ctx context.Context, client *clientlib.Client) error {
	for i, path := range w.paths() {
		var options []clientlib.CreateOption
		if i%2 == 0 {
			options = append(options, clientlib.Synced())
		}
		f, err := client.Create(ctx, path, options...)
		if err != nil {
			return err
		}
		if i >= 2 {
			err = w.ranges[i-2].fill(ctx, f)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// start has clients write until they are told to stop, each with a connection of its own.
func (w *written) start(ctx context.Context, url string) *writing {
	type task func(ctx context.Context, client *clientlib.Client, on *writing, count *atomic.Int64) error
	var tasks []task
	for i := range appendersEach {
		for j, to := range []*appended{&w.synced, &w.plain} {
			producer := uint32(2*i + j)
			random := rand.New(rand.NewPCG(w.seed+uint64(w.round), uint64(producer)))
			tasks = append(tasks, func(ctx context.Context, client *clientlib.Client, on *writing, count *atomic.Int64) error {
				return to.append(ctx, client, on, count, producer, random)
			})
		}
	}
	for i := range w.ranges {
		random := rand.New(rand.NewPCG(w.seed+uint64(w.round), uint64(len(tasks))))
		tasks = append(tasks, func(ctx context.Context, client *clientlib.Client, on *writing, count *atomic.Int64) error {
			return w.ranges[i].overwrite(ctx, client, on, count, random)
		})
	}
	on := &writing{counts: make([]atomic.Int64, len(tasks)), failed: make([]error, len(tasks))}
	for i, task := range tasks {
		on.writers.Go(func() {
			client, err := clientlib.Connect(ctx, url)
			if err == nil {
				err = errors.Join(task(ctx, client, on, &on.counts[i]), client.Close())
			}
			if on.failed[i] = err; err != nil {
				on.stop.Store(true)
			}
		})
	}
	return on
}

// check reads everything back. Unless power was lost everywhere, what was acknowledged has to be there, synced or not.
func (w *written) check(ctx context.Context, client *clientlib.Client, all bool) error {
	for _, a := range []*appended{&w.synced, &w.plain} {
		if err := a.check(ctx, client, all); err != nil {
			return err
		}
	}
	for i := range w.ranges {
		if err := w.ranges[i].check(ctx, client, all); err != nil {
			return err
		}
	}
	return nil
}

// promise is an entry that was acknowledged.
type promise struct {
	offset  int64
	durable bool
}

// appended is a file of bare entries.
type appended struct {
	path    string
	durable bool // at once

	mu      sync.Mutex
	entries map[entryID]promise
}

func (a *appended) note(id entryID, at promise) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.entries[id] = at
}

func (a *appended) noteSynced(ids []entryID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		a.entries[id] = promise{a.entries[id].offset, true}
	}
}

// count is how many entries are durable, and how many were acknowledged.
func (a *appended) count() (durable, all int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.entries {
		if at.durable {
			durable++
		}
	}
	return durable, len(a.entries)
}

// append appends entries one after the other, most of them short, and syncs now and then where an acknowledgement alone
// means no fsync.
func (a *appended) append(ctx context.Context, client *clientlib.Client, on *writing, count *atomic.Int64, producer uint32, random *rand.Rand) (err error) {
	f, err := open(ctx, client, a.path, os.O_APPEND)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var waiting []entryID
	for number := uint32(0); !on.stop.Load(); number++ {
		id, length := entryID{producer, number}, entryHeadBytes+random.IntN(mostEntryBytes)
		if number%longEvery == 0 {
			length += random.IntN(longEntryBytes)
		}
		offset, err := f.Append(ctx, encodeEntry(id, length))
		if err != nil {
			return fmt.Errorf("append to %s: %w", a.path, err)
		}
		a.note(id, promise{offset, a.durable})
		if waiting = append(waiting, id); !a.durable && number%appendsPerSync == 0 {
			switch err := f.Sync(ctx); {
			case err == nil:
				a.noteSynced(waiting)
			case !errors.Is(err, clientlib.ErrUnsyncedLost):
				return fmt.Errorf("sync of %s: %w", a.path, err)
			}
			waiting = waiting[:0]
		}
		count.Add(1)
		if err := rest(ctx, between(random, leastPause, mostPause)); err != nil {
			return err
		}
	}
	return nil
}

// check wants each entry that has to be there where it was acknowledged, once and whole, and nothing but entries.
func (a *appended) check(ctx context.Context, client *clientlib.Client, all bool) error {
	found, err := readEntries(ctx, client, a.path)
	if err != nil {
		return err
	}
	for id, want := range a.entries {
		at, ok := found[id]
		if ok && at != want.offset || !ok && (all || want.durable) {
			return fmt.Errorf("%s: entry %s was acknowledged at offset %d (synced: %t); found: %t, at %d", a.path, id, want.offset, want.durable, ok, at)
		}
	}
	return nil
}

// overwritten is a file of ranges that are written again and again.
type overwritten struct {
	path    string
	durable bool // at once
	last    uint64
	salts   [blockCount][]uint64 // by range: the last content that has to survive, and what was written since
	acked   [blockCount]uint64   // by range: the last that was acknowledged
	fresh   [blockCount]bool     // by range: acknowledged since the last Sync, whatever came of that
}

// fill writes every range once.
func (o *overwritten) fill(ctx context.Context, f *clientlib.File) error {
	for i := range blockCount {
		if err := o.write(f, i); err != nil {
			return err
		}
	}
	return o.sync(ctx, f)
}

func (o *overwritten) write(f *clientlib.File, block int) error {
	o.last++
	salt, offset := o.last, int64(block)*blockBytes
	o.salts[block] = append(o.salts[block], salt)
	data := make([]byte, blockBytes)
	fillPattern(data, offset, salt)
	if _, err := f.WriteAt(data, offset); err != nil {
		return fmt.Errorf("write to %s: %w", o.path, err)
	}
	o.acked[block], o.fresh[block] = salt, !o.durable
	if o.durable {
		o.salts[block] = []uint64{salt}
	}
	return nil
}

func (o *overwritten) sync(ctx context.Context, f *clientlib.File) error {
	err := f.Sync(ctx)
	if err != nil && !errors.Is(err, clientlib.ErrUnsyncedLost) {
		return fmt.Errorf("sync of %s: %w", o.path, err)
	}
	for i := range o.salts {
		if o.fresh[i] && err == nil { // else any of it may be there
			o.salts[i] = []uint64{o.acked[i]}
		}
		o.fresh[i] = false
	}
	return nil
}

// overwrite writes ranges at random, one after the other.
func (o *overwritten) overwrite(ctx context.Context, client *clientlib.Client, on *writing, count *atomic.Int64, random *rand.Rand) (err error) {
	f, err := open(ctx, client, o.path, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for number := 1; !on.stop.Load(); number++ {
		if err := o.write(f, random.IntN(blockCount)); err != nil {
			return err
		}
		if !o.durable && number%writesPerSync == 0 {
			if err := o.sync(ctx, f); err != nil {
				return err
			}
		}
		count.Add(1)
		if err := rest(ctx, between(random, leastPause, mostPause)); err != nil {
			return err
		}
	}
	return nil
}

// check wants in each sector what was written there last of all that has to survive, or something later.
func (o *overwritten) check(ctx context.Context, client *clientlib.Client, all bool) error {
	return reading(ctx, client, o.path, func(f *clientlib.File) error {
		data := make([]byte, blockBytes)
		for i, salts := range o.salts {
			if all {
				salts = []uint64{o.acked[i]}
			}
			offset := int64(i) * blockBytes
			if _, err := f.ReadAt(data, offset); err != nil {
				return unexpected("read back", o.path, offset, err)
			}
			for at := int64(0); at < blockBytes; at += sectorBytes {
				if err := anyPattern(data[at:at+sectorBytes], offset+at, salts); err != nil {
					return unexpected("read back", o.path, offset+at, err)
				}
			}
		}
		return nil
	})
}

// anyPattern is nil if the data are what a file written with one of the salts has at an offset.
func anyPattern(data []byte, offset int64, salts []uint64) (err error) {
	for _, salt := range salts {
		if err = checkPattern(data, offset, salt); err == nil {
			return nil
		}
	}
	return fmt.Errorf("nothing of what was written with %d: %w", salts, err)
}
