package chaos

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cairnfs/cairn/cluster/faults"
)

// Fault is what can be done to a chunkserver.
type Fault string

// The faults. A cut is made by a proxy between the chunkserver and everybody who connects to it, another one between it
// and NATS, or both.
const (
	Kill    Fault = "kill -9"                 // then started again after a pause
	Stop    Fault = "SIGSTOP"                 // then SIGCONT after a pause
	Refuse  Fault = "cut off, reset"          // from NATS and for data
	Silence Fault = "cut off, silent"         // the same, but connections stay
	Deafen  Fault = "cut off, hears nothing"  // but what it says passes
	Mute    Fault = "cut off, says nothing"   // but what it is told passes
	NoBus   Fault = "cut off from NATS alone" // silent
	NoData  Fault = "cut off for data alone"  // silent; it reaches others still
)

// cuts gives what the two proxies of a chunkserver do for a fault: that before its data, and that before NATS, of which
// the chunkserver is the client.
func (f Fault) cuts() (data, bus faults.Cut) {
	switch f {
	case Refuse:
		return faults.Refuse, faults.Refuse
	case Silence:
		return faults.Silence, faults.Silence
	case Deafen:
		return faults.Deafen, faults.Mute
	case Mute:
		return faults.Mute, faults.Deafen
	case NoBus:
		return faults.None, faults.Silence
	case NoData:
		return faults.Silence, faults.None
	}
	return faults.None, faults.None
}

// Phase is what goes on at a chunk when a fault strikes.
type Phase string

// The phases.
const (
	Idle          Phase = "idle"             // nobody waits for it
	Pending       Phase = "mutation pending" // or, of a reader, a read
	Reconfiguring Phase = "reconfiguring"    // on its way to another version
	Closing       Phase = "closing"
	Joining       Phase = "joining" // a replica is being brought in
)

// Strike is one fault of a plan.
type Strike struct {
	After time.Duration // since no replica was missing
	Fault Fault
	For   time.Duration // until it is taken back
	Aim   Phase         // wait, for aimPatience at most, until a chunk enters this phase; empty: do not wait
	Role  int           // which member of the chunk aimed at, or of the chunk that File has last: 0 is the primary
	File  string
}

// String is a line of a printed plan.
func (s Strike) String() string {
	aim := "its last chunk"
	if s.Aim != "" {
		aim = "a chunk that is " + string(s.Aim)
	}
	return fmt.Sprintf("after %6s: %-24s for %6s: member %d of %s (%s)", s.After.Round(time.Millisecond), s.Fault, s.For.Round(time.Millisecond), s.Role, aim, s.File)
}

// plan draws strikes that last for the given time if each takes what it is meant to.
func plan(seed uint64, duration time.Duration, kinds []Fault) []Strike {
	random := rand.New(rand.NewPCG(seed, seed))
	between := func(least, most time.Duration) time.Duration { return least + rand64(random, most-least) }
	files := []string{recordsPath, rawPath, streamPath, blocksPath}
	// Most faults strike while mutations are under way, which they always are.
	aims := []Phase{"", "", "", Reconfiguring, Joining, Closing}
	var strikes []Strike
	for total := time.Duration(0); total < duration; {
		s := Strike{
			After: between(300*time.Millisecond, 2*time.Second), Fault: kinds[random.IntN(len(kinds))],
			Aim: aims[random.IntN(len(aims))], Role: random.IntN(3), File: files[random.IntN(len(files))],
		}
		// Mostly short, since what happens happens in the first seconds; now and then long.
		s.For = between(200*time.Millisecond, 4*time.Second)
		if random.IntN(5) == 0 {
			s.For = between(4*time.Second, 20*time.Second)
		}
		if s.Fault == Kill {
			s.For /= 2
		}
		if left := duration - total; s.For > left { // a short run
			s.For = max(left, 200*time.Millisecond)
		}
		total += s.After + s.For
		strikes = append(strikes, s)
	}
	return strikes
}

func rand64(random *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(most)))
}
