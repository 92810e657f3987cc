package limits

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/cairnfs/cairn/cluster/bench"
	"github.com/cairnfs/cairn/messages/wire"
)

const (
	hops = 3
	// frameBytes of data travel together: small enough that the hops overlap, large enough that a frame's cost is that
	// of its bytes.
	frameBytes = 256 << 10
	frameSums  = frameBytes / blockBytes
	// frameHead is the checksums ahead of a frame's data.
	frameHead = frameSums * sumBytes
)

// chain is c.Bytes through three hops, in c.Streams streams side by side.
func (c Config) chain() bench.Case {
	p := &parts{}
	dirs := make([]string, hops)
	var first string
	name := "chain"
	if c.Streams > 1 {
		name = fmt.Sprintf("chain-%d", c.Streams)
	}
	return bench.Case{
		Name: name, CPU: p.cpu, Close: p.stop,
		Prepare: func(ctx context.Context) error {
			for i := hops - 1; i >= 0; i-- { // the last first: each is told the next one's address
				dirs[i] = c.path(fmt.Sprintf("hop%d", i))
				if err := os.Mkdir(dirs[i], 0o700); err != nil {
					return err
				}
				role := []string{"hop", dirs[i]}
				if first != "" {
					role = append(role, first)
				}
				var err error
				if first, err = p.start(ctx, c.Command, role...); err != nil {
					return err
				}
			}
			return nil
		},
		Run: func(ctx context.Context, watch *bench.Stopwatch) (*bench.Tally, error) {
			watch.Start()
			frames := c.Bytes / frameBytes
			tally := bench.Parallel(c.Streams, func(i int, tally *bench.Tally) {
				if err := c.sendFrames(ctx, first, bench.Share(frames, i, c.Streams), tally); err != nil {
					tally.Fail(err)
				}
			})
			watch.Stop()
			// Freeing the pages of the files is not the next run's cost.
			return tally, errors.Join(tally.FirstError, removeFiles(dirs))
		},
	}
}

// sendFrames sends n frames to the first hop and waits for the acknowledgement of all.
func (c Config) sendFrames(ctx context.Context, first string, n int64, tally *bench.Tally) error {
	conn, hangUp, err := dial(ctx, first)
	if err != nil {
		return err
	}
	defer hangUp()
	frame := append(make([]byte, frameHead), c.noise(frameBytes)...)
	for range n {
		begin := time.Now()
		putSums(frame[:frameHead], frame[frameHead:])
		if _, err := conn.Write(frame); err != nil {
			return err
		}
		tally.Latency.Record(time.Since(begin))
	}
	begin := time.Now()
	if err := finish(conn, n*frameBytes); err != nil {
		return err
	}
	tally.Latency.Record(time.Since(begin))
	tally.Bytes += n * frameBytes
	return nil
}

// hop is a replica stripped to what it cannot do without.
type hop struct {
	dir     string
	next    string // address of the next hop; "" at the last
	streams atomic.Int64
}

// take passes on and writes one stream of frames, and acknowledges it when all below have.
func (h *hop) take(ctx context.Context, conn *net.TCPConn) (err error) {
	var next *net.TCPConn
	if h.next != "" {
		conn, hangUp, err := dial(ctx, h.next)
		if err != nil {
			return err
		}
		defer hangUp()
		next = conn
	}
	name := filepath.Join(h.dir, fmt.Sprint(h.streams.Add(1)))
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := relay(conn, next, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if next != nil {
		if err := finish(next, n); err != nil {
			return err
		}
	}
	return binary.Write(conn, binary.BigEndian, n)
}

// relay takes frames to the end of the stream: each goes on to next, which may be nil, is checked and then written.
func relay(conn io.Reader, next *net.TCPConn, f *os.File) (n int64, err error) {
	frame := make([]byte, frameHead+frameBytes)
	for {
		switch _, err := io.ReadFull(conn, frame); {
		case err == io.EOF:
			return n, nil
		case err != nil:
			return n, err
		}
		if next != nil {
			if _, err := next.Write(frame); err != nil {
				return n, err
			}
		}
		if err := checkSums(frame[:frameHead], frame[frameHead:]); err != nil {
			return n, err
		}
		if _, err := f.WriteAt(frame[frameHead:], n); err != nil {
			return n, err
		}
		n += frameBytes
	}
}

// putSums computes the checksum of each block of data, a whole number of blocks.
func putSums(sums, data []byte) {
	for i := range len(data) / blockBytes {
		binary.BigEndian.PutUint32(sums[i*sumBytes:], wire.Checksum(data[i*blockBytes:][:blockBytes]))
	}
}

// checkSums compares the checksum of each block of data, a whole number of blocks.
func checkSums(sums, data []byte) error {
	for i := range len(data) / blockBytes {
		want := binary.BigEndian.Uint32(sums[i*sumBytes:])
		if got := wire.Checksum(data[i*blockBytes:][:blockBytes]); got != want {
			return fmt.Errorf("block %d has checksum %08x, computed %08x", i, want, got)
		}
	}
	return nil
}

// removeFiles removes the files in each directory.
func removeFiles(dirs []string) error {
	var failed []error
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		failed = append(failed, err)
		for _, e := range entries {
			failed = append(failed, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(failed...)
}
