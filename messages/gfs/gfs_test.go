package gfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

func TestEveryCodeSurvivesTheWire(t *testing.T) {
	for code := CodeNone + 1; code < codeCount; code++ {
		row := errorTable[code]
		if row.name == "" || row.sentinel == nil {
			t.Errorf("code %d has no row in the table", code)
			continue
		}
		err := fmt.Errorf("stat /a: %w", FromCode(code, "say why"))
		if CodeOf(err) != code {
			t.Errorf("%s comes back as %s", code, CodeOf(err))
		}
		if CodeOf(row.sentinel) != code {
			t.Errorf("the sentinel of %s has the code of %s", code, CodeOf(row.sentinel))
		}
		if !errors.Is(err, row.sentinel) || row.twin != nil && !errors.Is(err, row.twin) {
			t.Errorf("%s is not its sentinel or its twin", code)
		}
		if !strings.Contains(err.Error(), "say why") {
			t.Errorf("%s loses its detail: %v", code, err)
		}
	}
	if FromCode(CodeNone, "") != nil || CodeOf(nil) != CodeNone {
		t.Error("no error does not stay no error")
	}
}

func TestCodesNeverMove(t *testing.T) {
	// Peers of other releases know these numbers.
	for code, number := range map[Code]uint16{CodeNotExist: 1, CodeNoSpace: 9, CodeUnavailable: 15, CodeChunkFull: 21, CodeInternal: 27} {
		if uint16(code) != number {
			t.Errorf("%s moved from %d to %d", code, number, uint16(code))
		}
	}
}

func TestCodeOfForeignErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Code
	}{
		{syscall.ENOSPC, CodeNoSpace},
		{&fs.PathError{Op: "open", Path: "/a", Err: syscall.ENOENT}, CodeNotExist},
		{context.DeadlineExceeded, CodeOutcomeUnknown},
		{errors.New("whatever"), CodeInternal},
	} {
		if got := CodeOf(c.err); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
	if Code(65535).String() != "internal" {
		t.Error("an unknown code is not taken as internal")
	}
}

func TestCleanPath(t *testing.T) {
	for in, want := range map[string]string{
		"/": "/", "//": "/", "/a": "/a", "/a/": "/a", "/a//b/../c": "/a/c", "/..": "/", "/ü/…": "/ü/…",
		"/" + strings.Repeat("x", 255): "/" + strings.Repeat("x", 255),
	} {
		if got, err := CleanPath(in); err != nil || got != want {
			t.Errorf("CleanPath(%.40q) = %.40q, %v; want %.40q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "a", "./a", "/a\x00b", "/a\nb", "/a\u0085b", "/\xff", "/" + strings.Repeat("x", 256), strings.Repeat("/x", 2049)} {
		if got, err := CleanPath(in); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("CleanPath(%.40q) = %.40q, %v; want invalid", in, got, err)
		}
	}
}

func TestVersionsAreOrderedByEpochFirst(t *testing.T) {
	if NewVersion(2, 1) <= NewVersion(1, 1<<31) {
		t.Error("a later epoch's first attempt is not above an earlier epoch's last")
	}
	v := NewVersion(3, 9)
	if v.Epoch() != 3 || v.String() != "3.9" {
		t.Errorf("version %s of epoch %d", v, v.Epoch())
	}
}

func TestChunkHandleText(t *testing.T) {
	h := ChunkHandle(0xab12)
	if got, err := ParseChunkHandle(h.String()); err != nil || got != h {
		t.Errorf("%s comes back as %s, %v", h, got, err)
	}
	for _, bad := range []string{"", "12", "000000000000zz12", "+00000000000ab12"} {
		if _, err := ParseChunkHandle(bad); err == nil {
			t.Errorf("%q was taken as a handle", bad)
		}
	}
}

func TestADetailGoesOnWithoutItsSentinel(t *testing.T) {
	cause := fmt.Errorf("reserve: %w", Errorf(CodeNoSpace, "disk 3 is full"))
	if err := Errorf(CodeNoSpace, "chunk 5: %s", DetailOf(cause)); err.Error() != "no space left: chunk 5: disk 3 is full" {
		t.Errorf("%v", err)
	}
	if got := DetailOf(ErrBusy); got != ErrBusy.Error() {
		t.Errorf("without a detail: %q", got)
	}
}
