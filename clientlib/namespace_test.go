package clientlib

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
)

func TestConnectSaysWhatToStart(t *testing.T) {
	t.Parallel()
	start := time.Now()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() // accepts and says nothing
	for _, url := range []string{"nats://127.0.0.1:1", "nats://" + listener.Addr().String()} {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		_, err := Connect(ctx, url)
		cancel()
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "cairn nats") || !strings.Contains(err.Error(), url) {
			t.Errorf("%s: %v", url, err)
		}
	}
	p := newPeers(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = Connect(ctx, p.url, WithCluster("other"))
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), `"other"`) || !strings.Contains(err.Error(), p.url) {
		t.Errorf("without a master: %v", err)
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestNamespaceErrors(t *testing.T) {
	p := newPeers(t, 3)
	c := p.connect()
	ctx := t.Context()
	mustWrite(t, c, "/file", []byte("x"))
	if err := c.Mkdir(ctx, "/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, c, "/dir/inner", nil)
	_, create := c.Create(ctx, "/file")
	_, open := c.Open(ctx, "/missing")
	_, openDir := c.Open(ctx, "/dir")
	_, relative := c.Open(ctx, "relative")
	for _, test := range []struct {
		what string
		err  error
		want error
	}{
		{"create", create, fs.ErrExist}, {"open", open, fs.ErrNotExist}, {"open a directory", openDir, syscall.EISDIR},
		{"relative", relative, fs.ErrInvalid}, {"remove", c.Remove(ctx, "/dir"), syscall.ENOTEMPTY},
		{"mkdir", c.Mkdir(ctx, "/dir", 0o755), fs.ErrExist}, {"chmod", c.Chmod(ctx, "/missing", 0o600), fs.ErrNotExist},
		{"replicas", c.SetReplicas(ctx, "/file", 9), fs.ErrInvalid},
	} {
		if _, ok := errors.AsType[*fs.PathError](test.err); !ok || !errors.Is(test.err, test.want) {
			t.Errorf("%s: %v, want a PathError around %v", test.what, test.err, test.want)
		}
	}
	rename := c.Rename(ctx, "/missing", "/there")
	if _, ok := errors.AsType[*os.LinkError](rename); !ok || !errors.Is(rename, fs.ErrNotExist) {
		t.Errorf("rename: %v", rename)
	}
	if err := c.RemoveAll(ctx, "/missing"); err != nil {
		t.Errorf("remove all of nothing: %v", err)
	}
	file, err := c.Open(ctx, "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write([]byte("y")); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("write to a file opened for reading: %v", err)
	}
}

func TestNamespaceOperations(t *testing.T) {
	p := newPeers(t, 3)
	c := p.connect()
	ctx := t.Context()
	mustWrite(t, c, "/a", []byte("12345"))
	modified := time.Unix(1_000_000, 42)
	for _, err := range []error{c.Rename(ctx, "/a", "/b"), c.Chmod(ctx, "/b", 0o600), c.Chown(ctx, "/b", "mary", ""),
		c.Chtimes(ctx, "/b", modified), c.SetReplicas(ctx, "/b", 2)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	info, err := c.Stat(ctx, "/b")
	if err != nil {
		t.Fatal(err)
	}
	status := info.Sys().(*FileStatus)
	if info.Name() != "b" || info.Size() != 5 || info.Mode() != 0o600 || !info.ModTime().Equal(modified) ||
		status.Owner != "mary" || status.Group != "root" || status.Replicas != 2 || status.Chunks != 1 {
		t.Errorf("%v %+v", info, status)
	}
	if err := c.Remove(ctx, "/b"); err != nil {
		t.Fatal(err)
	}
	if err := c.Undelete(ctx, "/b"); err != nil {
		t.Fatal(err)
	}
	at, err := c.Locations(ctx, "/b", 0, 100)
	if err != nil || len(at) != 1 || at[0].Length != 5 || len(at[0].Servers) != 3 || at[0].Servers[0].Addr == "" {
		t.Errorf("locations %+v, %v", at, err)
	}
	if space, err := c.StatFS(ctx); err != nil || space.CapacityBytes == 0 || space.Chunkservers != 3 {
		t.Errorf("statfs %+v, %v", space, err)
	}
	var names []string
	for entry, err := range c.ReadDir(ctx, "/") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, entry.Name())
	}
	if fmt.Sprint(names) != "[b]" {
		t.Errorf("names %v", names)
	}
}

func TestLostRepliesOfTheMasterHaveOneEffect(t *testing.T) {
	p := newPeers(t, 3)
	c := p.connect()
	lost := 0
	p.onMaster = func(op string, nth int) (gfs.Code, bool, bool) {
		if op != messages.OpMutate {
			return 0, false, false
		}
		lost++
		switch lost % 4 {
		case 1:
			return gfs.CodeNotActing, false, false
		case 2:
			return gfs.CodeUnavailable, false, true // took effect, and the answer says otherwise
		case 3:
			return gfs.CodeBusy, false, false
		}
		return 0, false, false
	}
	for i := range 3 {
		file, err := c.Create(t.Context(), fmt.Sprintf("/f%d", i))
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	if n := p.count("create"); n != 3 {
		t.Errorf("%d creations took effect", n)
	}
}

func TestSessionIsRegisteredAnew(t *testing.T) {
	p := newPeers(t, 3)
	c := p.connect()
	for i := range 3 {
		if err := c.Mkdir(t.Context(), fmt.Sprintf("/d%d", i), 0o755); err != nil {
			t.Fatal(err)
		}
		p.mu.Lock()
		clear(p.sessions)
		p.mu.Unlock()
	}
	if n := p.count("register"); n != 3 {
		t.Errorf("registered %d times", n)
	}
	if n := p.count("mkdir"); n != 3 {
		t.Errorf("%d directories made", n)
	}
}
