package record

import (
	"cmp"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// input yields the records, then err if there is one; released counts the inputs whose iteration ended.
func input(records []Record, err error, released *int) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		defer func() { *released++ }()
		for _, r := range records {
			if !yield(r, nil) {
				return
			}
		}
		if err != nil {
			yield(Record{}, err)
		}
	}
}

func byOffset(a, b Record) int { return cmp.Compare(a.Offset, b.Offset) }

func TestMergeIsAStableSort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var inputs []iter.Seq2[Record, error]
		var all []Record
		released := 0
		for i := range rapid.IntRange(0, 9).Draw(t, "inputs") {
			offsets := rapid.SliceOfN(rapid.Int64Range(0, 20), 0, 12).Draw(t, "offsets")
			slices.Sort(offsets)
			var records []Record
			for seq, offset := range offsets {
				records = append(records, Record{Writer: uint64(i), Seq: uint64(seq), Offset: offset})
			}
			inputs = append(inputs, input(records, nil, &released))
			all = append(all, records...)
		}
		slices.SortStableFunc(all, byOffset)
		take := rapid.IntRange(1, len(all)+1).Draw(t, "take")
		got, err := collect(Merge(byOffset, inputs...), take)
		if err != nil {
			t.Fatal(err)
		}
		sameRecords(t, got, all[:min(take, len(all))])
		if released != len(inputs) {
			t.Fatalf("%d of %d inputs were released", released, len(inputs))
		}
	})
}

func TestMergeReportsAnInputsError(t *testing.T) {
	broken := errors.New("broken")
	for name, at := range map[string][]Record{"at once": nil, "later": {{Offset: 1}}} {
		released := 0
		got, err := collect(Merge(byOffset,
			input([]Record{{Offset: 0}, {Offset: 2}}, nil, &released),
			input(at, broken, &released),
			input([]Record{{Offset: 3}}, nil, &released)), -1)
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "input 1") || len(got) > 2 {
			t.Errorf("%s: records %v, error %v", name, brief(got), err)
		}
		if want := 3; released != want && (name != "at once" || released != 2) { // the third was never begun
			t.Errorf("%s: %d inputs released", name, released)
		}
	}
}
