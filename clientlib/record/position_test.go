package record

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"testing"
)

var (
	_ encoding.TextMarshaler   = Position{}
	_ encoding.TextAppender    = Position{}
	_ encoding.TextUnmarshaler = (*Position)(nil)
)

func TestPositionText(t *testing.T) {
	dense, sparse := newDuplicates(2), newDuplicates(2)
	for seq := range uint64(5000) {
		dense.first(1, seq)
		sparse.first(2, 2*seq)
	}
	for name, c := range map[string]struct {
		position Position
		longest  int
	}{
		"zero":    {Position{}, 12},
		"offset":  {PositionAt(math.MaxInt64), 24},
		"one run": {Position{offset: 1 << 40, marks: dense.encode()}, 36},
		"no run":  {Position{offset: 1 << 40, marks: sparse.encode()}, 220},
	} {
		text, err := c.position.MarshalText()
		if err != nil || len(text) > c.longest {
			t.Errorf("%s: %d characters, error %v", name, len(text), err)
		}
		var got Position
		if err := got.UnmarshalText(text); err != nil || got != c.position {
			t.Errorf("%s: %+v became %+v, error %v", name, c.position, got, err)
		}
		kept := map[string]Position{}
		encoded, _ := json.Marshal(map[string]Position{"at": c.position})
		if err := json.Unmarshal(encoded, &kept); err != nil || kept["at"] != c.position {
			t.Errorf("%s: through JSON %s: %v", name, encoded, err)
		}
	}
}

func TestPositionOfTheMostWritersIsAccepted(t *testing.T) {
	d := newDuplicates(MaxWriters)
	for writer := range uint64(MaxWriters) {
		for seq := range uint64(200) {
			d.first(writer<<50|writer, math.MaxUint64-MaxWindow+2*seq)
		}
	}
	text, _ := Position{offset: math.MaxInt64, marks: d.encode()}.MarshalText()
	var p Position
	if err := p.UnmarshalText(text); err != nil {
		t.Errorf("%d characters: %v", len(text), err)
	}
	// A reader that remembers fewer keeps the latest.
	r := NewReader(bytes.NewReader(nil), WithWriters(2))
	r.SeekTo(p)
	if len(r.duplicates.writers) != 2 || r.duplicates.newest.writer != d.newest.writer {
		t.Errorf("kept %d writers", len(r.duplicates.writers))
	}
}

func TestPositionRefusals(t *testing.T) {
	good, _ := Position{offset: 77, marks: func() string { d := newDuplicates(1); d.first(1, 1); return d.encode() }()}.MarshalText()
	kept := PositionAt(5)
	for at := range good {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		p := kept
		if err := p.UnmarshalText(bad); !errors.Is(err, fs.ErrInvalid) || p != kept {
			t.Errorf("%s, changed at %d: error %v, position %+v", bad, at, err, p)
		}
	}
	for cut := range good {
		p := kept
		if err := p.UnmarshalText(good[:cut]); !errors.Is(err, fs.ErrInvalid) || p != kept {
			t.Errorf("%s: error %v", good[:cut], err)
		}
	}
	if err := new(Position).UnmarshalText(bytes.Repeat([]byte("A"), 2<<20)); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("2 MiB of text: error %v", err)
	}
}
