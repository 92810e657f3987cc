package limits

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/cairnfs/cairn/cluster/bench"
	"github.com/cairnfs/cairn/cluster/processes"
)

// startPatience bounds the start of a part: a source computes the checksums of its file first.
const startPatience = time.Minute

// parts is the processes that a case works with.
type parts struct{ running []*processes.Process }

// start runs a role and returns the address that it serves.
func (p *parts) start(ctx context.Context, command []string, role ...string) (address string, err error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	args := append(append([]string(nil), command[1:]...), role...)
	process, err := processes.Start(ctx, os.Stderr, role[0], command[0], args...)
	if err != nil {
		return "", err
	}
	p.running = append(p.running, process)
	return process.Ready(), nil
}

// stop ends the processes, the one started last first.
func (p *parts) stop(context.Context) error {
	var failed []error
	for len(p.running) > 0 {
		last := len(p.running) - 1
		failed = append(failed, p.running[last].Stop())
		p.running = p.running[:last]
	}
	return errors.Join(failed...)
}

// cpu is the CPU time of this process and of the parts so far.
func (p *parts) cpu() (time.Duration, error) {
	own, err := bench.OwnCPU()
	if err != nil {
		return 0, err
	}
	pids := make([]int, len(p.running))
	for i, process := range p.running {
		pids[i] = process.Pid()
	}
	others, err := bench.ProcessCPU(pids)
	return own + others, err
}

// dial connects to a part. The connection is closed when ctx ends, or by hangUp, which the caller calls.
func dial(ctx context.Context, address string) (conn *net.TCPConn, hangUp func(), err error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, nil, err
	}
	forget := context.AfterFunc(ctx, func() { _ = c.Close() })
	return c.(*net.TCPConn), func() {
		forget()
		_ = c.Close()
	}, nil
}

// finish ends what was sent, waits for the count of bytes that the other side has taken, and compares it.
func finish(conn *net.TCPConn, want int64) error {
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	var got int64
	if err := binary.Read(conn, binary.BigEndian, &got); err != nil {
		return fmt.Errorf("no acknowledgement: %w", err)
	}
	if got != want {
		return fmt.Errorf("%d bytes arrived of %d sent", got, want)
	}
	return nil
}
