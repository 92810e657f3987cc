package backup_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/master/backup"
	"github.com/cairnfs/cairn/messages/gfs"
)

func encode(h backup.Header, pages []backup.Page) []byte {
	e, b := backup.NewEncoder(nil, h)
	for _, p := range pages {
		b = e.Page(b, p)
	}
	return e.End(b)
}

func decode(r io.Reader) (h backup.Header, pages []backup.Page, err error) {
	h, all, err := backup.Read(r)
	if err != nil {
		return h, nil, err
	}
	for p, err := range all {
		if err != nil {
			return h, pages, err
		}
		pages = append(pages, backup.Page{Key: bytes.Clone(p.Key), Value: bytes.Clone(p.Value)})
	}
	return h, pages, nil
}

func header() backup.Header {
	return backup.Header{Cluster: "local", Master: "m1", Index: 4711, Epoch: 12, Made: time.Unix(1_700_000_000, 5)}
}

func somePages() []backup.Page {
	var pages []backup.Page
	for i := range 5 {
		pages = append(pages, backup.Page{Key: fmt.Appendf(nil, "key%d", i), Value: bytes.Repeat([]byte{byte(i)}, i*i)})
	}
	return pages
}

// What was written comes back, in whatever pieces it is read.
func TestWhatWasWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := backup.Header{
			Cluster: rapid.StringMatching(`[A-Za-z0-9_-]{1,64}`).Draw(t, "cluster"), Master: rapid.StringMatching(`[A-Za-z0-9_-]{1,64}`).Draw(t, "master"),
			Index: rapid.Uint64().Draw(t, "index"), Epoch: gfs.Epoch(rapid.Uint32().Draw(t, "epoch")),
			Made: time.Unix(0, rapid.Int64Min(0).Draw(t, "made")),
		}
		var want []backup.Page
		for i := range rapid.IntRange(0, 20).Draw(t, "pages") {
			key := append([]byte{byte(i)}, rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "key")...)
			want = append(want, backup.Page{Key: key, Value: make([]byte, rapid.SampledFrom([]int{0, 1, 100, 1 << 16, 200_000}).Draw(t, "value"))})
		}
		got, pages, err := decode(iotest.OneByteReader(bytes.NewReader(encode(h, want))))
		if err != nil || got != h || len(pages) != len(want) {
			t.Fatalf("%+v with %d pages, %v; want %+v with %d", got, len(pages), err, h, len(want))
		}
		for i, p := range pages {
			if !bytes.Equal(p.Key, want[i].Key) || !bytes.Equal(p.Value, want[i].Value) {
				t.Fatalf("page %d differs", i)
			}
		}
	})
}

// Every byte counts, and so does the last one.
func TestADamagedBackupIsRefused(t *testing.T) {
	good := encode(header(), somePages())
	for i := range good {
		if _, _, err := decode(bytes.NewReader(good[:i])); err == nil {
			t.Errorf("a backup of %d of %d bytes is taken", i, len(good))
		}
		for _, bit := range []byte{1, 0x80} {
			damaged := bytes.Clone(good)
			damaged[i] ^= bit
			if _, _, err := decode(bytes.NewReader(damaged)); err == nil || !errors.Is(err, backup.ErrDamaged) && gfs.CodeOf(err) != gfs.CodeInvalid {
				t.Errorf("byte %d damaged: %v", i, err)
			}
		}
	}
	if _, _, err := decode(bytes.NewReader(append(bytes.Clone(good), 0))); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("a byte behind the end: %v", err)
	}
	turned := somePages()
	turned[2], turned[3] = turned[3], turned[2]
	if _, _, err := decode(bytes.NewReader(encode(header(), turned))); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("pages out of order: %v", err)
	}
	newer := bytes.Clone(good)
	newer[12]++
	if _, _, err := decode(bytes.NewReader(newer)); gfs.CodeOf(err) != gfs.CodeInvalid {
		t.Errorf("a newer format: %v", err)
	}
	broken := errors.New("disk")
	for i := range good {
		if _, _, err := decode(io.MultiReader(bytes.NewReader(good[:i]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
			t.Errorf("a reader that fails after %d bytes: %v", i, err)
		}
	}
}

// FuzzRead: any bytes are read or refused; what is read says the same when it is written again.
func FuzzRead(f *testing.F) {
	f.Add(encode(header(), somePages()))
	f.Add(encode(header(), nil))
	f.Add(encode(header(), somePages())[:60])
	f.Fuzz(func(t *testing.T, data []byte) {
		h, pages, err := decode(bytes.NewReader(data))
		if err != nil {
			return
		}
		again, more, err := decode(bytes.NewReader(encode(h, pages)))
		if err != nil || again != h || len(more) != len(pages) {
			t.Fatalf("%+v with %d pages became %+v with %d: %v", h, len(pages), again, len(more), err)
		}
	})
}
