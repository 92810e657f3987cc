package record

import (
	"testing"

	"pgregory.net/rapid"
)

// The marks equal a set of everything ever met, as long as sequences stay within the window.
func TestDuplicatesEqualASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDuplicates(8)
		met, highest := map[[2]uint64]bool{}, map[uint64]uint64{}
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			writer := rapid.Uint64Range(1, 8).Draw(t, "writer")
			lowest := uint64(0)
			if high := highest[writer]; high >= MaxWindow {
				lowest = high - MaxWindow + 1
			}
			seq := rapid.OneOf(
				rapid.Uint64Range(lowest, highest[writer]+3),
				rapid.Uint64Range(lowest, highest[writer]+2*MaxWindow),
			).Draw(t, "seq")
			key := [2]uint64{writer, seq}
			if first := d.first(writer, seq); first == met[key] {
				t.Fatalf("writer %d, sequence %d, window from %d: first is %v", writer, seq, lowest, first)
			}
			met[key] = true
			highest[writer] = max(highest[writer], seq)
			if rapid.Bool().Draw(t, "encode") {
				again := newDuplicates(8)
				if err := again.decode([]byte(d.encode())); err != nil || again.encode() != d.encode() {
					t.Fatalf("marks after encoding differ, error %v", err)
				}
				d = again
			}
		}
	})
}

func TestDuplicatesBelowTheWindowAreDropped(t *testing.T) {
	d := newDuplicates(8)
	if !d.first(1, MaxWindow+5) || !d.first(1, 6) {
		t.Error("a record within the window was dropped")
	}
	if d.first(1, 5) {
		t.Error("a record below the window was handed out")
	}
}

func TestDuplicatesForgetTheLeastRecentlyMetWriter(t *testing.T) {
	d := newDuplicates(3)
	for _, writer := range []uint64{1, 2, 3, 1, 4} { // 2 is forgotten
		d.first(writer, 1)
	}
	if len(d.writers) != 3 || d.writers[2] != nil {
		t.Errorf("remembered %d writers, the forgotten one is %v", len(d.writers), d.writers[2])
	}
	for _, writer := range []uint64{1, 3, 4} {
		if d.first(writer, 1) {
			t.Errorf("writer %d was forgotten", writer)
		}
	}
	count := 0
	for m := d.oldest; m != nil; m = m.newer {
		count++
	}
	for m := d.newest; m != nil; m = m.older {
		count++
	}
	if count != 6 {
		t.Errorf("the list holds %d entries in both directions, want 6", count)
	}
}
