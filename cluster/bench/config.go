package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/messages/gfs"
)

// Bounds on what a person may ask for: beyond them the measuring program itself is what would be measured.
const (
	MaxClients  = 256
	MaxInFlight = 4096
	MaxBytes    = 1 << 40
	MaxOps      = 100_000_000
	// MinRecordBytes is room for the stamp that tells records apart.
	MinRecordBytes = stampBytes
)

const (
	// ioBytes is what one Read or Write call moves.
	ioBytes = 1 << 20
	// randomBytes is what one random read fetches: a block.
	randomBytes = gfs.BlockSize
	// noiseBytes is how much random data is made for writes; it repeats.
	noiseBytes = 4 << 20
)

// Config is what the cases of a cluster share.
type Config struct {
	Connect  func(context.Context, ...clientlib.Option) (*clientlib.Client, error) // a new client, which the case closes
	Path     clientlib.DataPath                                                    // of what is written; any but AutoPath is part of a case's name
	Dir      string                                                                // in the cluster: cases make their directories in it
	Bytes    int64                                                                 // of one run of a data case, over all clients: 1 to MaxBytes
	Ops      int64                                                                 // of one run of a metadata case: 1 to MaxOps
	InFlight int                                                                   // records in flight a producer: 1 to MaxInFlight
	Synced   bool                                                                  // acknowledgements wait for fsync on all replicas
	Seed     uint64                                                                // of data, of positions and of names

	ServerCPU func() (time.Duration, error) // as in a Case
	// Limit gives the limit of a case, with so many streams side by side, or round trips at a time. May be nil, as may be
	// what it gives.
	Limit func(kind Limit, n int) *Case
}

// Limit is what a case is held against.
type Limit string

// The limits, which package limits measures.
const (
	LimitChain  Limit = "chain"  // a client and three hops that check and store: of writes and large records
	LimitRead   Limit = "read"   // sendfile to a client that checks
	LimitRandom Limit = "random" // random blocks to a client that checks
	LimitEcho   Limit = "echo"   // requests to a service that echoes: of metadata
)

func (c Config) limit(kind Limit, n int) *Case {
	if c.Limit == nil {
		return nil
	}
	return c.Limit(kind, n)
}

// Check refuses what is out of bounds.
func (c Config) Check() error {
	switch {
	case c.Bytes < 1 || c.Bytes > MaxBytes:
		return fmt.Errorf("%d bytes a run: want 1 to %d", c.Bytes, int64(MaxBytes))
	case c.Ops < 1 || c.Ops > MaxOps:
		return fmt.Errorf("%d operations a run: want 1 to %d", c.Ops, MaxOps)
	case c.InFlight < 1 || c.InFlight > MaxInFlight:
		return fmt.Errorf("%d in flight: want 1 to %d", c.InFlight, MaxInFlight)
	}
	return nil
}

// All is the cases of the figures that the project states about itself. The small records move a quarter of the bytes:
// it is their number that counts.
func (c Config) All() []Case {
	small := c
	small.Bytes = max(c.Bytes/4, 1)
	return []Case{
		c.Write(1), c.Write(4), c.Read(1), c.RandomRead(1, RandomInFlight),
		c.Append(1, 1<<20), c.Append(16, 1<<20), small.Append(16, 1<<10),
		c.Stat(1, MetaInFlight), c.Create(1, MetaInFlight),
	}
}

func (c Config) durability() Durability {
	if c.Synced {
		return SyncFsync
	}
	return SyncNone
}

// writing is the name of a case that writes: with the way of its data, if that is fixed.
func (c Config) writing(format string, args ...any) string {
	name := fmt.Sprintf(format, args...)
	if c.Path == clientlib.AutoPath {
		return name
	}
	return name + "-" + c.Path.String()
}

func (c Config) fileOptions() []clientlib.CreateOption {
	if c.Synced {
		return []clientlib.CreateOption{clientlib.Synced()}
	}
	return nil
}

// random is a source for one worker of one case.
func (c Config) random(worker int) *rand.Rand {
	return rand.New(rand.NewPCG(c.Seed, uint64(worker)))
}

// noise is n bytes that do not compress.
func (c Config) noise(n int) []byte {
	var seed [32]byte
	for i := range 8 {
		seed[i] = byte(c.Seed >> (8 * i))
	}
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
	return b
}

// site is the clients of a case and the directory that they work in. Its zero value is not open yet.
type site struct {
	config  Config
	dir     string
	clients []*clientlib.Client
	runs    int  // begun so far
	keep    bool // something is wrong with a file: all are evidence
}

// open connects the clients and makes the directory.
func (s *site) open(ctx context.Context, config Config, name string, clients int) error {
	s.config = config
	for range clients {
		client, err := config.Connect(ctx, clientlib.WithDataPath(config.Path))
		if err != nil {
			return err
		}
		s.clients = append(s.clients, client)
	}
	dir := path.Join("/", config.Dir, fmt.Sprintf("bench-%016x-%s", config.Seed, name))
	if err := s.clients[0].Mkdir(ctx, dir, 0o755); err != nil {
		return err
	}
	s.dir = dir
	return nil
}

// close removes the directory with all that is in it, unless it is to be kept, and closes the clients.
func (s *site) close(ctx context.Context) error {
	var failed []error
	if s.dir != "" && !s.keep {
		failed = append(failed, s.empty(ctx), s.clients[0].RemoveAll(ctx, s.dir))
	}
	for _, client := range s.clients {
		failed = append(failed, client.Close())
	}
	return errors.Join(failed...)
}

// empty takes the bytes out of the files that are left, so that the trash does not keep them.
func (s *site) empty(ctx context.Context) error {
	for entry, err := range s.clients[0].ReadDir(ctx, s.dir) {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			continue // of names alone
		}
		if err := s.truncate(ctx, path.Join(s.dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// drop removes files with their bytes.
func (s *site) drop(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := s.truncate(ctx, name); err != nil {
			return err
		}
		if err := s.clients[0].Remove(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) truncate(ctx context.Context, name string) error {
	f, err := s.clients[0].OpenFile(ctx, name, os.O_WRONLY|os.O_TRUNC)
	if err != nil {
		return err
	}
	return f.Close()
}

// newRun counts a run and returns its number, from 0.
func (s *site) newRun() int {
	s.runs++
	return s.runs - 1
}

func (s *site) path(format string, args ...any) string {
	return path.Join(s.dir, fmt.Sprintf(format, args...))
}

// each is Parallel with a client for each worker: they are handed out in turn.
func (s *site) each(n int, work func(worker int, client *clientlib.Client, tally *Tally)) *Tally {
	return Parallel(n, func(i int, tally *Tally) { work(i, s.clients[i%len(s.clients)], tally) })
}
