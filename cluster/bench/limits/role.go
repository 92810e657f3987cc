package limits

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Role serves one part of a case until ctx ends. It prints `ready ADDRESS` on out when it can serve; what goes wrong on
// a connection is printed on log and ends that connection alone. The roles are
//
//	sink             takes bytes and answers with their count at the end of the stream
//	source FILE      sends ranges of a file with their checksums
//	hop DIR [NEXT]   takes frames, passes them on to NEXT and writes them to files in DIR
//	nats             a NATS server
//	echo URL         answers each request on the NATS server at URL with its payload
//
// The error is gfs.CodeInvalid for a role that does not exist.
func Role(ctx context.Context, args []string, out, log io.Writer) error {
	if len(args) == 0 {
		return gfs.Errorf(gfs.CodeInvalid, "want a role")
	}
	switch role, args := args[0], args[1:]; {
	case role == "sink" && len(args) == 0:
		return serve(ctx, out, log, sink)
	case role == "source" && len(args) == 1:
		s, err := newSource(args[0])
		if err != nil {
			return err
		}
		return errors.Join(serve(ctx, out, log, s.answer), s.close())
	case role == "hop" && len(args) == 1:
		return serve(ctx, out, log, (&hop{dir: args[0]}).take)
	case role == "hop" && len(args) == 2:
		return serve(ctx, out, log, (&hop{dir: args[0], next: args[1]}).take)
	case role == "nats" && len(args) == 0:
		return serveNATS(ctx, out)
	case role == "echo" && len(args) == 1:
		return serveEcho(ctx, args[0], out)
	default:
		return gfs.Errorf(gfs.CodeInvalid, "no role %q with %d arguments", role, len(args))
	}
}

// serve accepts connections on a free port of the loopback interface and gives each to handle, in a goroutine of its
// own. It returns when ctx has ended and every handle has returned.
func serve(ctx context.Context, out, log io.Writer, handle func(ctx context.Context, conn *net.TCPConn) error) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	if _, err := fmt.Fprintln(out, "ready", listener.Addr()); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			defer func() { _ = conn.Close() }()
			if err := handle(ctx, conn.(*net.TCPConn)); err != nil && ctx.Err() == nil {
				fmt.Fprintf(log, "limits: %v\n", err)
			}
		})
	}
}

// sink takes bytes to the end of the stream and answers with their count.
func sink(_ context.Context, conn *net.TCPConn) error {
	buf := make([]byte, pieceBytes)
	var n int64
	for {
		k, err := conn.Read(buf)
		n += int64(k)
		if err == io.EOF {
			return binary.Write(conn, binary.BigEndian, n)
		}
		if err != nil {
			return err
		}
	}
}
