package limits

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/cairnfs/cairn/cluster/bench"
	"github.com/cairnfs/cairn/messages/gfs"
)

const (
	mib = 1 << 20
	// pieceBytes is what the simple cases move in one call.
	pieceBytes = mib
	blockBytes = gfs.BlockSize
	sumBytes   = 4
)

// Bounds on what a person may ask for.
const (
	MaxBytes   = 1 << 36 // 64 GiB: the chain writes it three times
	MaxStreams = 64
	MaxOps     = 100_000_000
)

// Config says how much to move.
type Config struct {
	Command []string // starts a role: the role's name and arguments are appended
	Dir     string   // for files, on the disk to measure; the caller makes and removes it
	Bytes   int64    // of one run, 1 to MaxBytes; rounded up to whole MiB
	Ops     int64    // round trips of one run, 1 to MaxOps
	Streams int      // side by side in the chain and the verified read, 1 to MaxStreams
	Seed    uint64   // of the data and of random positions
}

// Cases is the raw limits. The parts that they start end in their Close.
func Cases(c Config) ([]bench.Case, error) {
	c, err := c.checked()
	if err != nil {
		return nil, err
	}
	return []bench.Case{
		c.checksum(), c.tcp(), c.fileWrite(), c.sendfile(), c.chain(), c.readVerified(), c.pread(4), c.echo(1), c.echo(64),
	}, nil
}

// Of is the limit of one kind. InFlight is for random reads and round trips: how many at a time, 1 to bench.MaxInFlight.
func Of(kind bench.Limit, inFlight int, c Config) (bench.Case, error) {
	c, err := c.checked()
	if err == nil && (inFlight < 1 || inFlight > bench.MaxInFlight) {
		err = fmt.Errorf("%d at a time: want 1 to %d", inFlight, bench.MaxInFlight)
	}
	if err != nil {
		return bench.Case{}, err
	}
	switch kind {
	case bench.LimitChain:
		return c.chain(), nil
	case bench.LimitRead:
		return c.readVerified(), nil
	case bench.LimitRandom:
		return c.pread(inFlight), nil
	case bench.LimitEcho:
		return c.echo(inFlight), nil
	}
	return bench.Case{}, fmt.Errorf("no limit is called %q", kind)
}

// checked refuses what is out of bounds and rounds up.
func (c Config) checked() (Config, error) {
	switch {
	case len(c.Command) == 0 || c.Dir == "":
		return c, fmt.Errorf("limits: want a command for the parts and a directory")
	case c.Bytes < 1 || c.Bytes > MaxBytes:
		return c, fmt.Errorf("%d bytes a run: want 1 to %d", c.Bytes, int64(MaxBytes))
	case c.Ops < 1 || c.Ops > MaxOps:
		return c, fmt.Errorf("%d round trips a run: want 1 to %d", c.Ops, MaxOps)
	case c.Streams < 1 || c.Streams > MaxStreams:
		return c, fmt.Errorf("%d streams: want 1 to %d", c.Streams, MaxStreams)
	}
	c.Bytes = (c.Bytes + mib - 1) / mib * mib
	return c, nil
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

func (c Config) path(name string) string { return filepath.Join(c.Dir, name) }

// dataFile writes a file of c.Bytes, which is then in the page cache, unless another case has, and returns its name.
func (c Config) dataFile(ctx context.Context) (name string, err error) {
	name = c.path("data")
	if info, err := os.Stat(name); err == nil && info.Size() == c.Bytes {
		return name, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	piece := c.noise(pieceBytes)
	for range c.Bytes / pieceBytes {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if _, err := f.Write(piece); err != nil {
			return "", err
		}
	}
	return name, nil
}
