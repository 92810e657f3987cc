package dataplane

import (
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// sendfile writes n bytes of file from offset to a socket without copying them through this process. It obeys the
// connection's write deadline. The file's own position is neither used nor moved, so many may send it at once.
func sendfile(socket syscall.RawConn, file *os.File, offset int64, n int) error {
	source, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed, waited error
	err = source.Control(func(in uintptr) {
		waited = socket.Write(func(out uintptr) bool {
			for n > 0 {
				sent, err := unix.Sendfile(int(out), int(in), &offset, n)
				switch {
				case err == unix.EINTR:
				case err == unix.EAGAIN:
					return false
				case err != nil:
					failed = os.NewSyscallError("sendfile", err)
					return true
				case sent == 0:
					failed = io.ErrUnexpectedEOF // the file is shorter than its checksums
					return true
				}
				n -= max(sent, 0)
			}
			return true
		})
	})
	if err == nil {
		err = waited
	}
	if err == nil {
		err = failed
	}
	return err
}

// moreWriter writes to a socket what sendfile will follow at once: the kernel keeps it for the same packet, and the
// reader is woken once.
type moreWriter struct{ socket syscall.RawConn }

// Write obeys the connection's write deadline.
func (w moreWriter) Write(p []byte) (int, error) {
	done := 0
	var failed error
	err := w.socket.Write(func(fd uintptr) bool {
		for done < len(p) {
			n, err := unix.SendmsgN(int(fd), p[done:], nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
			switch {
			case err == unix.EINTR:
			case err == unix.EAGAIN:
				return false
			case err != nil:
				failed = os.NewSyscallError("sendmsg", err)
				return true
			}
			done += max(n, 0)
		}
		return true
	})
	if err == nil {
		err = failed
	}
	return done, err
}
