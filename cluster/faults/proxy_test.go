package faults_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cairnfs/cairn/cluster/faults"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers each line with itself, on a port of its own, until the test ends. What reached it is told.
func echo(t *testing.T) (address string, heard <-chan string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 16)
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				defer conn.Close()
				for reader := bufio.NewReader(conn); ; {
					line, err := reader.ReadString('\n')
					if err != nil {
						return
					}
					lines <- line
					if _, err := io.WriteString(conn, line); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { listener.Close(); tasks.Wait() })
	return listener.Addr().String(), lines
}

// caller is one connection through a proxy.
type caller struct {
	t *testing.T
	net.Conn
	reader *bufio.Reader
}

func call(t *testing.T, p *faults.Proxy) *caller {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &caller{t, conn, bufio.NewReader(conn)}
}

func (c *caller) say(line string) {
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

// hears reads a line within a time.
func (c *caller) hears(within time.Duration) (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		c.t.Fatal(err)
	}
	return c.reader.ReadString('\n')
}

// refusal is how a new connection ends that says nothing: in the call for it, if the reset is there before connect returns,
// or in the first read.
func refusal(p *faults.Proxy, within time.Duration) error {
	conn, err := net.DialTimeout("tcp", p.Addr(), within)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

func TestProxyCuts(t *testing.T) {
	const soon, never = 5 * time.Second, 100 * time.Millisecond
	for _, test := range []struct {
		cut     faults.Cut
		reaches bool // what is said during the cut
		ends    bool // the connection
	}{
		{cut: faults.Silence}, {cut: faults.Deafen}, {cut: faults.Mute, reaches: true}, {cut: faults.Refuse, ends: true},
	} {
		t.Run(string(test.cut), func(t *testing.T) {
			address, heard := echo(t)
			p, err := faults.NewProxy(address)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			}()
			c := call(t, p)
			c.say("one")
			if got, err := c.hears(soon); err != nil || got != "one\n" {
				t.Fatalf("before the cut: %q, %v", got, err)
			}
			<-heard
			p.Set(test.cut)
			if test.ends {
				if _, err := c.hears(soon); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("the connection was to end: %v", err)
				}
				if err := refusal(p, soon); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("a new connection was to be refused: %v", err)
				}
				p.Set(faults.None)
				again := call(t, p)
				again.say("two")
				if got, err := again.hears(soon); err != nil || got != "two\n" {
					t.Fatalf("after the cut: %q, %v", got, err)
				}
				return
			}
			c.say("two")
			if _, err := c.hears(never); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("an answer came through the cut: %v", err)
			}
			select {
			case <-heard:
				if !test.reaches {
					t.Fatal("the target was reached through the cut")
				}
			default:
				if test.reaches {
					t.Fatal("the target was not reached")
				}
			}
			late := call(t, p)
			late.say("three")
			p.Set(faults.None)
			for want, c := range map[string]*caller{"two\n": c, "three\n": late} {
				if got, err := c.hears(soon); err != nil || got != want {
					t.Fatalf("after the cut: %q, %v", got, err)
				}
			}
		})
	}
}
