package limits

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cairnfs/cairn/cluster/bench"
	"github.com/cairnfs/cairn/messages/wire"
)

// roleArgument makes the test binary a part of a case, as the cairn command is for people.
const roleArgument = "limits-role"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == roleArgument {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := Role(ctx, os.Args[2:], os.Stdout, os.Stderr)
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func smallConfig(t *testing.T, streams int) Config {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Config{Command: []string{binary, roleArgument}, Dir: t.TempDir(), Bytes: 3<<20 - 1, Ops: 200, Streams: streams, Seed: 7}
}

func run(t *testing.T, cases []bench.Case, runs int) []bench.Result {
	t.Helper()
	results, err := bench.Plan{Cases: cases, Runs: runs, Rand: rand.New(rand.NewPCG(1, 2))}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return results
}

func TestEveryCaseMovesWhatItSays(t *testing.T) {
	for _, streams := range []int{1, 3} {
		cfg := smallConfig(t, streams)
		cases, err := Cases(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range run(t, cases, 2) {
			switch {
			case strings.HasPrefix(r.Name, "nats-echo"):
				if r.Ops != 200 || r.Bytes != 0 {
					t.Errorf("%s: %d ops and %d bytes, want 200 and none", r.Name, r.Ops, r.Bytes)
				}
			case r.Bytes != 3<<20:
				t.Errorf("%s: %d bytes, want 3 MiB", r.Name, r.Bytes)
			}
			if r.Rate <= 0 || r.Max <= 0 || r.P50 > r.P99 || r.P99 > r.Max || r.Errors != 0 || r.Runs != 2 || r.Sync != bench.SyncNone {
				t.Errorf("an odd result: %+v", r)
			}
		}
	}
}

func TestAnInterruptionEndsThePartsAndLeavesNoError(t *testing.T) {
	cfg := smallConfig(t, 1)
	cfg.Bytes = 1 << 33 // would take seconds
	ctx, cancel := context.WithCancel(t.Context())
	c := cfg.tcp()
	closed := false
	stop := c.Close
	c.Close = func(ctx context.Context) error {
		closed = true
		return stop(ctx)
	}
	defer cancel()
	_, err := bench.Plan{Cases: []bench.Case{c}, Runs: 1, Rand: rand.New(rand.NewPCG(1, 2)), Progress: func(_, _ int, name string) {
		if name == "tcp" {
			time.AfterFunc(50*time.Millisecond, cancel)
		}
	}}.Run(ctx)
	if err == nil || err.Error() != context.Canceled.Error() || !closed {
		t.Errorf("%v, closed: %v; want only that it was canceled", err, closed)
	}
	if used, err := c.CPU(); err != nil || used == 0 {
		t.Errorf("the parts are still counted: %v", err)
	}
}

func TestAHopRefusesAFlippedBit(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Role(ctx, []string{"hop", dir}, in, t.Output()) }()
	var address string
	if _, err := fmt.Fscanf(out, "ready %s\n", &address); err != nil {
		t.Fatal(err)
	}
	data := smallConfig(t, 1).noise(frameBytes)
	send := func(spoil int) error {
		frame := append(make([]byte, frameHead), data...)
		putSums(frame[:frameHead], frame[frameHead:])
		if spoil >= 0 {
			frame[spoil] ^= 1
		}
		conn, hangUp, err := dial(ctx, address)
		if err != nil {
			t.Fatal(err)
		}
		defer hangUp()
		if _, err := conn.Write(frame); err != nil {
			return err
		}
		return finish(conn, frameBytes)
	}
	if err := send(-1); err != nil {
		t.Errorf("a good frame: %v", err)
	}
	for _, at := range []int{0, frameHead - 1, frameHead, frameHead + frameBytes - 1} {
		if err := send(at); err == nil {
			t.Errorf("a bit flipped at %d is acknowledged", at)
		}
	}
	written, err := os.ReadFile(dir + "/1")
	if err != nil || wire.Checksum(written) != wire.Checksum(data) {
		t.Errorf("the good frame is not in its file: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestASourceRefusesWhatIsNotBlocksOfItsFile(t *testing.T) {
	name := t.TempDir() + "/file"
	if err := os.WriteFile(name, make([]byte, 3*blockBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := newSource(name)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for _, r := range []request{
		{byPread, -blockBytes, blockBytes}, {byPread, 1, blockBytes}, {byPread, 0, 1}, {byPread, 0, 4 * blockBytes},
		{byPread, 1 << 62, blockBytes}, {byPread, 3 * blockBytes, blockBytes}, {byPread, 0, -blockBytes}, {0, 0, blockBytes},
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		client, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if err := binary.Write(client, binary.BigEndian, r); err != nil {
			t.Fatal(err)
		}
		if err := client.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := s.answer(t.Context(), conn.(*net.TCPConn)); err == nil {
			t.Errorf("%+v is answered", r)
		}
		client.Close()
		conn.Close()
		listener.Close()
	}
}

func TestRolesAndBoundsThatDoNotExist(t *testing.T) {
	for _, args := range [][]string{nil, {"king"}, {"sink", "x"}, {"hop"}, {"hop", "a", "b", "c"}, {"source"}, {"echo"}} {
		if err := Role(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("role %q is served", args)
		}
	}
	for _, spoil := range []func(*Config){
		func(c *Config) { c.Bytes = 0 }, func(c *Config) { c.Bytes = MaxBytes + 1 }, func(c *Config) { c.Ops = 0 },
		func(c *Config) { c.Streams = 0 }, func(c *Config) { c.Streams = MaxStreams + 1 }, func(c *Config) { c.Command = nil }, func(c *Config) { c.Dir = "" },
	} {
		cfg := smallConfig(t, 1)
		spoil(&cfg)
		if _, err := Cases(cfg); err == nil {
			t.Errorf("accepted: %+v", cfg)
		}
	}
}
