package limits

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/cairnfs/cairn/cluster/bench"
)

// How a source sends data.
const (
	bySendfile uint8 = iota + 1
	byPread
)

// request asks a source for a range: whole blocks. The answer is frames of up to pieceBytes of data, each with the
// checksums of its blocks ahead.
type request struct {
	Mode   uint8
	Offset int64
	Length int64
}

// source serves a file whose checksums it knows.
type source struct {
	file *os.File
	size int64
	sums []byte
}

// newSource opens a file of whole blocks and computes its checksums.
func newSource(name string) (*source, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	s := &source{file: f}
	block, sum := make([]byte, blockBytes), make([]byte, sumBytes)
	for {
		switch _, err := io.ReadFull(f, block); {
		case err == io.EOF:
			return s, nil
		case err != nil:
			return nil, errors.Join(err, f.Close())
		}
		putSums(sum, block)
		s.sums = append(s.sums, sum...)
		s.size += blockBytes
	}
}

func (s *source) close() error { return s.file.Close() }

// answer serves requests to the end of the connection.
func (s *source) answer(_ context.Context, conn *net.TCPConn) (err error) {
	f, err := os.Open(s.file.Name()) // sendfile moves the position: each connection has its own
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := make([]byte, pieceBytes/blockBytes*sumBytes+pieceBytes)
	for {
		var r request
		switch err := binary.Read(conn, binary.BigEndian, &r); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if r.Mode != bySendfile && r.Mode != byPread {
			return fmt.Errorf("unknown mode %d", r.Mode)
		}
		if r.Offset < 0 || r.Length < 0 || r.Offset%blockBytes != 0 || r.Length%blockBytes != 0 || r.Length > s.size-r.Offset {
			return fmt.Errorf("range %d+%d is not whole blocks of a file of %d bytes", r.Offset, r.Length, s.size)
		}
		if err := s.send(conn, f, r, buf); err != nil {
			return err
		}
	}
}

func (s *source) send(conn *net.TCPConn, f *os.File, r request, buf []byte) error {
	if r.Mode == bySendfile {
		if _, err := f.Seek(r.Offset, io.SeekStart); err != nil {
			return err
		}
	}
	for r.Length > 0 {
		n := min(r.Length, pieceBytes)
		head := copy(buf, s.sums[r.Offset/blockBytes*sumBytes:][:n/blockBytes*sumBytes])
		frame := buf[:head]
		if r.Mode == byPread {
			frame = buf[:head+int(n)]
			if _, err := f.ReadAt(frame[head:], r.Offset); err != nil {
				return err
			}
		}
		if _, err := conn.Write(frame); err != nil {
			return err
		}
		if r.Mode == bySendfile {
			if _, err := io.CopyN(conn, f, n); err != nil {
				return err
			}
		}
		r.Offset, r.Length = r.Offset+n, r.Length-n
	}
	return nil
}

// readVerified is clients reading a whole file by sendfile, c.Streams side by side, and checking every block.
func (c Config) readVerified() bench.Case {
	name := "read-verified"
	if c.Streams > 1 {
		name = fmt.Sprintf("read-verified-%d", c.Streams)
	}
	return c.fromSource(name, c.Streams, func(ctx context.Context, i int, conn *net.TCPConn, tally *bench.Tally) error {
		buf := make([]byte, pieceBytes/blockBytes*sumBytes+pieceBytes)
		want := bench.Share(c.Bytes/blockBytes, i, c.Streams) * blockBytes
		if err := binary.Write(conn, binary.BigEndian, request{bySendfile, 0, want}); err != nil {
			return err
		}
		for want > 0 {
			n := min(want, pieceBytes)
			begin := time.Now()
			if err := receive(conn, buf, n); err != nil {
				return err
			}
			tally.Latency.Record(time.Since(begin))
			tally.Bytes += n
			want -= n
		}
		return nil
	})
}

// pread is random blocks, inFlight at a time, each asked for and checked.
func (c Config) pread(inFlight int) bench.Case {
	return c.fromSource(fmt.Sprintf("pread-%d", inFlight), inFlight, func(ctx context.Context, i int, conn *net.TCPConn, tally *bench.Tally) error {
		random := rand.New(rand.NewPCG(c.Seed, uint64(i)))
		blocks := c.Bytes / blockBytes
		buf := make([]byte, sumBytes+blockBytes)
		for range bench.Share(blocks, i, inFlight) {
			begin := time.Now()
			r := request{byPread, random.Int64N(blocks) * blockBytes, blockBytes}
			if err := binary.Write(conn, binary.BigEndian, r); err != nil {
				return err
			}
			if err := receive(conn, buf, blockBytes); err != nil {
				return err
			}
			tally.Latency.Record(time.Since(begin))
			tally.Ops++
			tally.Bytes += blockBytes
		}
		return nil
	})
}

// receive reads one frame with n bytes of data into buf and checks it.
func receive(conn io.Reader, buf []byte, n int64) error {
	head := n / blockBytes * sumBytes
	frame := buf[:head+n]
	if _, err := io.ReadFull(conn, frame); err != nil {
		return err
	}
	return checkSums(frame[:head], frame[head:])
}

// fromSource is a case in which workers read from a source, each on a connection of its own.
func (c Config) fromSource(name string, workers int, read func(context.Context, int, *net.TCPConn, *bench.Tally) error) bench.Case {
	p := &parts{}
	var address string
	return bench.Case{
		Name: name, CPU: p.cpu, Close: p.stop,
		Prepare: func(ctx context.Context) (err error) {
			file, err := c.dataFile(ctx)
			if err != nil {
				return err
			}
			address, err = p.start(ctx, c.Command, "source", file)
			return err
		},
		Run: func(ctx context.Context, watch *bench.Stopwatch) (*bench.Tally, error) {
			watch.Start()
			tally := bench.Parallel(workers, func(i int, tally *bench.Tally) {
				conn, hangUp, err := dial(ctx, address)
				if err != nil {
					tally.Fail(err)
					return
				}
				defer hangUp()
				if err := read(ctx, i, conn, tally); err != nil {
					tally.Fail(err)
				}
			})
			watch.Stop()
			return tally, tally.FirstError
		},
	}
}
