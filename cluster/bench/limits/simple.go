package limits

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/cairnfs/cairn/cluster/bench"
	"github.com/cairnfs/cairn/messages/wire"
)

// checksum is CRC32C over blocks, in one goroutine. The buffer is larger than the caches next to a core.
func (c Config) checksum() bench.Case {
	buf := c.noise(16 * mib)
	want := wire.Checksum(buf[:blockBytes])
	return bench.Case{Name: "crc32c", Run: func(ctx context.Context, watch *bench.Stopwatch) (*bench.Tally, error) {
		watch.Start()
		tally, err := pieces(ctx, c.Bytes/pieceBytes, func(i int64) error {
			piece := buf[i*pieceBytes%int64(len(buf)):][:pieceBytes]
			for at := 0; at < pieceBytes; at += blockBytes {
				if sum := wire.Checksum(piece[at : at+blockBytes]); at == 0 && i == 0 && sum != want {
					return fmt.Errorf("checksum %08x, computed %08x before", sum, want)
				}
			}
			return nil
		})
		watch.Stop()
		return tally, err
	}}
}

// pieces does n pieces of work, numbered from 0, and counts each as pieceBytes.
func pieces(ctx context.Context, n int64, work func(i int64) error) (*bench.Tally, error) {
	tally := &bench.Tally{}
	for i := range n {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		begin := time.Now()
		if err := work(i); err != nil {
			return nil, err
		}
		tally.Latency.Record(time.Since(begin))
		tally.Bytes += pieceBytes
	}
	return tally, nil
}

// fileWrite writes a new file, without any sync.
func (c Config) fileWrite() bench.Case {
	piece := c.noise(pieceBytes)
	return bench.Case{Name: "file-write", Run: func(ctx context.Context, watch *bench.Stopwatch) (_ *bench.Tally, err error) {
		name := c.path("file-write")
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, f.Close(), os.Remove(name)) }()
		watch.Start()
		tally, err := pieces(ctx, c.Bytes/pieceBytes, func(i int64) error {
			_, err := f.WriteAt(piece, i*pieceBytes)
			return err
		})
		watch.Stop()
		return tally, err
	}}
}

// tcp sends bytes to another process, which discards them.
func (c Config) tcp() bench.Case {
	piece := c.noise(pieceBytes)
	return c.toSink("tcp", nil, func(ctx context.Context, conn *net.TCPConn) (*bench.Tally, error) {
		return pieces(ctx, c.Bytes/pieceBytes, func(int64) error {
			_, err := conn.Write(piece)
			return err
		})
	})
}

// sendfile sends a file in the page cache to another process, which discards it.
func (c Config) sendfile() bench.Case {
	var name string
	prepare := func(ctx context.Context) (err error) {
		name, err = c.dataFile(ctx)
		return err
	}
	return c.toSink("sendfile", prepare, func(ctx context.Context, conn *net.TCPConn) (_ *bench.Tally, err error) {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		return pieces(ctx, c.Bytes/pieceBytes, func(int64) error {
			_, err := io.CopyN(conn, f, pieceBytes)
			return err
		})
	})
}

// toSink is a case that sends c.Bytes to a sink and waits for its count. Prepare may be nil.
func (c Config) toSink(name string, prepare func(context.Context) error, send func(context.Context, *net.TCPConn) (*bench.Tally, error)) bench.Case {
	p := &parts{}
	var address string
	return bench.Case{
		Name: name, CPU: p.cpu, Close: p.stop,
		Prepare: func(ctx context.Context) (err error) {
			if prepare != nil {
				if err := prepare(ctx); err != nil {
					return err
				}
			}
			address, err = p.start(ctx, c.Command, "sink")
			return err
		},
		Run: func(ctx context.Context, watch *bench.Stopwatch) (*bench.Tally, error) {
			watch.Start()
			defer watch.Stop()
			conn, hangUp, err := dial(ctx, address)
			if err != nil {
				return nil, err
			}
			defer hangUp()
			tally, err := send(ctx, conn)
			if err != nil {
				return nil, err
			}
			return tally, finish(conn, tally.Bytes)
		},
	}
}
