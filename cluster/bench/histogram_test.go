package bench

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// durations are drawn over all magnitudes, not over all numbers.
func durations() *rapid.Generator[[]time.Duration] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.Int64Range(0, 1<<rapid.IntRange(1, maxBits-1).Draw(t, "bits")).Draw(t, "ns"))
	}), 1, 300)
}

func TestQuantilesAreAtMostOne128thTooLong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := durations().Draw(t, "durations")
		q := rapid.Float64Range(0, 1).Draw(t, "q")
		var h Histogram
		for _, d := range all {
			h.Record(d)
		}
		slices.Sort(all)
		exact := all[max(int(math.Ceil(q*float64(len(all)))), 1)-1]
		if got := h.Quantile(q); got < exact || got > exact+exact/128 {
			t.Errorf("quantile %g of %d durations is %d, want %d to %d", q, len(all), got, exact, exact+exact/128)
		}
		if h.Max() != all[len(all)-1] || h.Count() != uint64(len(all)) || h.Quantile(1) != h.Max() {
			t.Errorf("longest %d of %d, last quantile %d; want %d of %d", h.Max(), h.Count(), h.Quantile(1), all[len(all)-1], len(all))
		}
	})
}

func TestMergedHistogramsEqualOneOfAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var merged, one Histogram
		for _, part := range rapid.SliceOfN(durations(), 0, 4).Draw(t, "parts") {
			var h Histogram
			for _, d := range part {
				h.Record(d)
				one.Record(d)
			}
			merged.Merge(&h)
		}
		if merged != one {
			t.Error("merging is not the same as recording everything in one")
		}
	})
}

func TestBucketsAreContiguous(t *testing.T) {
	for i := range buckets - 1 {
		last := lastOf(i)
		if bucketOf(last) != i || bucketOf(last+1) != i+1 {
			t.Fatalf("bucket %d ends at %d, which is in %d; the next is in %d", i, last, bucketOf(last), bucketOf(last+1))
		}
	}
	if got := bucketOf(math.MaxUint64); got != buckets-1 {
		t.Errorf("the longest duration is in bucket %d of %d", got, buckets)
	}
}

func TestOutOfRangeDurations(t *testing.T) {
	var h Histogram
	if h.Quantile(0.5) != 0 || h.Max() != 0 {
		t.Error("an empty histogram has quantiles")
	}
	h.Record(-time.Second)
	if h.Quantile(1) != 0 || h.Count() != 1 {
		t.Error("a negative duration does not count as 0")
	}
	h.Record(math.MaxInt64)
	if h.Quantile(1) != math.MaxInt64 {
		t.Errorf("the longest duration comes back as %d", h.Quantile(1))
	}
}
