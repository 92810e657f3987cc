package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Script is a run: the seed decides how the world goes, the steps are what befalls it.
type Script struct {
	Seed  uint64
	Steps []Step
}

// Step is one thing that befalls the world. Verb and Arguments are as in a script's text:
//
//	crash cs1            the process of cs1 ends
//	crash cs1 7          it ends in the 7th operation on its disk from now on
//	power cs1            it ends, and what it had not synced is forgotten
//	start cs1            a new one begins
//	stop cs1 800         it does nothing for 800 ms
//	slow cs1             its disk is slow from now on; a new process's is not
//	cut cs1 cs2 500      nothing passes between them for 500 ms
//	deaf cs1 cs2 500     nothing passes from the first to the second
//	late cs1 cs2 900     messages from the first to the second take up to 900 ms longer from now on
//	echo cs1 900         messages on the bus come to it once more, up to 900 ms later
//	break cs1 cs2        their connections break
//	lose cs1 cs2         the next frame of a chain from the first to the second is lost
//	lead m1              m1 becomes the leader
//	faults 50            one in 50 messages is lost, doubled or late from now on; 0 for none
type Step struct {
	At        time.Duration
	Verb      string
	Arguments []string
}

// String is the step's line in a script.
func (s Step) String() string {
	return fmt.Sprintf("%.3f %s", float64(s.At.Microseconds())/1000, strings.Join(append([]string{s.Verb}, s.Arguments...), " "))
}

// String is the script's text, which Parse reads.
func (s Script) String() string {
	lines := []string{fmt.Sprintf("seed %d", s.Seed)}
	for _, step := range s.Steps {
		lines = append(lines, step.String())
	}
	return strings.Join(lines, "\n") + "\n"
}

// Parse reads a script: a line with the seed, then the steps, each with the time in milliseconds from the beginning.
// Empty lines and what follows a # are passed over.
func Parse(text string) (Script, error) {
	var s Script
	for number, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		bad := func(err error) (Script, error) { return s, fmt.Errorf("line %d, %q: %w", number+1, line, err) }
		if words[0] == "seed" && len(words) == 2 {
			seed, err := strconv.ParseUint(words[1], 10, 64)
			if err != nil {
				return bad(err)
			}
			s.Seed = seed
			continue
		}
		at, err := strconv.ParseFloat(words[0], 64)
		if err != nil || len(words) < 2 {
			return bad(fmt.Errorf("want MILLISECONDS VERB ...: %w", err))
		}
		s.Steps = append(s.Steps, Step{time.Duration(math.Round(at*1000)) * time.Microsecond, words[1], words[2:]})
	}
	return s, nil
}

// Faults happen from when the first mutations are under way to faultEnd.
const (
	faultBegin = 100 * time.Millisecond
	faultEnd   = 6 * time.Second
)

// Plan draws the script of a seed.
func Plan(seed uint64) Script {
	r := rand.New(rand.NewPCG(seed, 0xfa17))
	s := Script{Seed: seed}
	server := func() string { return fmt.Sprintf("cs%d", r.IntN(s.servers())) }
	add := func(at time.Duration, verb string, arguments ...any) {
		step := Step{At: at.Truncate(time.Microsecond), Verb: verb}
		for _, a := range arguments {
			step.Arguments = append(step.Arguments, fmt.Sprint(a))
		}
		s.Steps = append(s.Steps, step)
	}
	if r.IntN(3) == 0 {
		add(0, "faults", []int{20, 50, 200}[r.IntN(3)])
	}
	first, within := faultBegin, (faultEnd-faultBegin)*3/4
	if r.IntN(2) == 0 { // all at once
		first += time.Duration(r.Int64N(int64(within)))
		within = 700 * time.Millisecond
	}
	for range 1 + r.IntN(8) {
		at := first + time.Duration(r.Int64N(int64(within)))
		ms := 20 + r.IntN(1500)
		switch r.IntN(13) {
		case 0, 1, 2:
			victim := server()
			if r.IntN(2) == 0 {
				add(at, "crash", victim)
			} else {
				add(at, "crash", victim, 1+r.IntN(40))
			}
			if r.IntN(5) > 0 {
				if r.IntN(3) == 0 {
					ms = 5 + r.IntN(50)
				}
				add(at+time.Duration(ms)*2*time.Millisecond, "start", victim)
			}
		case 3, 4:
			if r.IntN(4) == 0 {
				ms *= 4
			}
			add(at, "stop", server(), ms)
		case 5:
			add(at, "slow", server())
		case 6:
			add(at, "cut", server(), server(), ms)
		case 7:
			who := []string{"m0", "m1", "clients", server()}[r.IntN(4)]
			if r.IntN(2) == 0 {
				add(at, "deaf", server(), who, ms)
			} else {
				add(at, "deaf", who, server(), ms)
			}
		case 8:
			add(at, "cut", []string{"m0", "m1", "clients"}[r.IntN(3)], server(), ms)
		case 9:
			add(at, "break", server(), server())
		case 10:
			add(at, "lead", fmt.Sprintf("m%d", r.IntN(2)))
		case 11:
			add(at, "lose", server(), server())
		case 12:
			m := fmt.Sprintf("m%d", r.IntN(2))
			add(at, "crash", m)
			add(at+time.Duration(ms)*time.Millisecond, "start", m)
		}
	}
	at := first + time.Duration(r.Int64N(int64(within)))
	soon := func(ms int) time.Duration { return at + time.Duration(r.IntN(ms*1000))*time.Microsecond }
	switch victim, other := server(), server(); r.IntN(8) {
	case 0: // a primary is held up while others go on, and what it had sent comes late
		add(at, "late", victim, other, 500+r.IntN(2500))
		add(at, "break", victim, server())
		add(soon(80), "stop", victim, 350+r.IntN(3000))
		add(soon(150), "lead", fmt.Sprintf("m%d", r.IntN(2)))
	case 1: // a process gets what was meant for the one before
		add(at-50*time.Millisecond, "echo", victim, 100+r.IntN(1500))
		add(at, "break", victim, server())
		add(soon(200), "crash", victim)
		add(soon(200)+200*time.Millisecond, "start", victim)
	case 2: // processes end again and again in the middle of what they do
		victims := []string{victim}
		if r.IntN(2) == 0 {
			for i := range s.servers() {
				victims = append(victims, fmt.Sprintf("cs%d", i))
			}
		}
		for range 5 {
			pause := time.Duration(100+r.IntN(300)) * time.Millisecond
			for _, name := range victims {
				add(at, "crash", name, 1+r.IntN(12))
				add(at+pause, "start", name)
			}
			at += pause + time.Duration(50+r.IntN(400))*time.Millisecond
		}
	}
	if r.IntN(8) == 0 {
		at := faultBegin + time.Duration(r.Int64N(int64(faultEnd-faultBegin)*3/4))
		for range 1 + r.IntN(5) {
			victim := server()
			add(at, "power", victim)
			add(at+time.Duration(20+r.IntN(3000))*time.Millisecond, "start", victim)
			at += time.Duration(r.IntN(4)*r.IntN(300)) * time.Millisecond
		}
	}
	s.Steps = slices.DeleteFunc(s.Steps, func(step Step) bool { return step.At >= faultEnd }) // all is healed by then
	slices.SortStableFunc(s.Steps, func(a, b Step) int { return int(a.At - b.At) })
	return s
}

// servers is how many chunkservers there are.
func (s Script) servers() int { return 3 + int(s.Seed%3) }

// losesPower reports whether a server loses its power.
func (s Script) losesPower() bool {
	return slices.ContainsFunc(s.Steps, func(step Step) bool { return step.Verb == "power" })
}

// Minimize takes steps out of a script as long as it fails the same way.
func Minimize(s Script, checker string) Script {
	fails := func(steps []Step) bool {
		f, _ := Run(Script{s.Seed, steps}, nil)
		return f != nil && f.Checker == checker
	}
	for size := max(1, len(s.Steps)/2); size >= 1; size /= 2 {
		for at := 0; at < len(s.Steps); {
			without := slices.Delete(slices.Clone(s.Steps), at, min(at+size, len(s.Steps)))
			if fails(without) {
				s.Steps = without
			} else {
				at += size
			}
		}
	}
	return s
}
