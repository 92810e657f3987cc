package bench

import (
	"math"
	"math/bits"
	"time"
)

const (
	// subBits is the resolution: each power of two is split into 1<<subBits buckets, so that a quantile is at most
	// 1/128 above the true one.
	subBits = 7
	// maxBits bounds what is told apart: durations of 2^40 ns (18 minutes) and more share the last bucket.
	maxBits = 40
	buckets = (maxBits-subBits-1)<<subBits + 1<<(subBits+1)
)

// Histogram counts durations in buckets whose width grows with the duration (log-linear), in 34 KiB whatever it
// counts. The zero value is empty and ready. It is not safe for concurrent use: workers have one each, and Merge.
type Histogram struct {
	counts  [buckets]uint64
	total   uint64
	longest time.Duration
}

// Record counts one duration; a negative one counts as 0.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	h.counts[bucketOf(uint64(d))]++
	h.total++
	h.longest = max(h.longest, d)
}

// Merge adds what other counted. Other stays as it is.
func (h *Histogram) Merge(other *Histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
	h.longest = max(h.longest, other.longest)
}

// Count is how many durations were recorded.
func (h *Histogram) Count() uint64 { return h.total }

// Max is the longest duration, exactly; 0 if there is none.
func (h *Histogram) Max() time.Duration { return h.longest }

// Quantile is a duration that the fraction q (0 to 1) of all recorded ones do not exceed: the true quantile or up to
// 1/128 more. It is 0 if nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := max(uint64(math.Ceil(min(max(q, 0), 1)*float64(h.total))), 1) // the rank-th shortest, from 1
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return min(time.Duration(lastOf(i)), h.longest)
		}
	}
	return h.longest
}

// bucketOf is the bucket of a duration in nanoseconds.
func bucketOf(ns uint64) int {
	ns = min(ns, 1<<maxBits-1)
	if ns < 1<<subBits {
		return int(ns)
	}
	shift := bits.Len64(ns) - 1 - subBits
	return shift<<subBits + int(ns>>shift)
}

// lastOf is the longest duration in a bucket, in nanoseconds.
func lastOf(bucket int) uint64 {
	if bucket < 1<<subBits {
		return uint64(bucket)
	}
	if bucket == buckets-1 {
		return 1<<63 - 1 // open-ended: the caller knows the longest
	}
	shift := bucket>>subBits - 1
	return uint64(bucket-shift<<subBits+1)<<shift - 1
}
