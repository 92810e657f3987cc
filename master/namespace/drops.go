package namespace

import "time"

// DropMemory is for how many days the log remembers how many chunks it dropped.
const DropMemory = 7

// dropLog counts the chunks that lost their last reference, by day, so that the acting master can tell replicas that the
// log itself gave up from those that a log which lost its history never heard of.
type dropLog [DropMemory + 1]struct{ day, chunks uint64 }

func dayOf(clock int64) uint64 { return uint64(max(clock, 0)) / uint64(24*time.Hour) }

// add counts chunks dropped at a time in nanoseconds since 1970.
func (l *dropLog) add(clock int64, chunks uint64) {
	day := dayOf(clock)
	slot := &l[day%uint64(len(l))]
	if slot.day != day {
		slot.day, slot.chunks = day, 0
	}
	slot.chunks += chunks
}

// since is how many were dropped today and in the DropMemory days before.
func (l *dropLog) since(clock int64) uint64 {
	sum, today := uint64(0), dayOf(clock)
	for _, slot := range l {
		if slot.day+DropMemory >= today {
			sum += slot.chunks
		}
	}
	return sum
}

// DroppedLately is how many chunks lost their last reference in the last DropMemory days.
func (v *View) DroppedLately() uint64 { return v.drops.since(v.clock) }
