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
//	badread cs1 800      reading its replicas' files fails for 800 ms (EIO), as far as another replica counts
//	badwrite cs1 800     writing them fails, after a part
//	badsync cs1 800      fsync fails, every other time, and pages of what was not synced are gone
//	badname cs1 800      making, opening and renaming files fails
//	badindex cs1 800     committing to the index fails, perhaps after it was done
//	full cs1 800         there is hardly any space: reserving, writing (after a part), making and committing often fail (ENOSPC)
//	flip cs1             a bit of one of its replicas flips, of which another counts
//	faults 50            one in 50 messages is lost, doubled or late from now on; 0 for none
//
// Where a number of milliseconds is left out in a step about a disk, one operation fails.
// What clients do to the files "appends" and "writes", beside appending and writing:
//
//	truncate appends 50  a client makes the file 50 bytes long
//	remove appends       ... removes it: it goes into the trash
//	delete appends       ... removes it past the trash
//	undelete appends     ... brings back what was removed last
//	create appends       ... makes it, unless it is there
//	replace appends      ... puts a new, empty one in its place
//	wide 3               the first one has 3 chunks from the beginning, with room for 100 kB in each
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
	p := planner{Rand: rand.New(rand.NewPCG(seed, 0xfa17)), script: Script{Seed: seed}}
	if p.IntN(3) == 0 {
		p.add(0, "faults", []int{20, 50, 200}[p.IntN(3)])
	}
	first, within := faultBegin, (faultEnd-faultBegin)*3/4
	if p.IntN(2) == 0 { // all at once
		first += time.Duration(p.Int64N(int64(within)))
		within = 700 * time.Millisecond
	}
	for range 1 + p.IntN(8) {
		p.fault(first + time.Duration(p.Int64N(int64(within))))
	}
	p.coincidence(first + time.Duration(p.Int64N(int64(within))))
	if p.IntN(8) == 0 {
		p.outages(faultBegin + time.Duration(p.Int64N(int64(faultEnd-faultBegin)*3/4)))
	}
	p.changes(seed)
	s := p.script
	if s.hasBadDisks() {
		s.Steps = planDisks(s).Steps
	}
	s.Steps = slices.DeleteFunc(s.Steps, func(step Step) bool { return step.At >= faultEnd }) // all is healed by then
	slices.SortStableFunc(s.Steps, func(a, b Step) int { return int(a.At - b.At) })
	return s
}

// planner draws a script. What is drawn in which order decides what a seed means.
type planner struct {
	*rand.Rand
	script Script
}

func (p *planner) add(at time.Duration, verb string, arguments ...any) {
	step := Step{At: at.Truncate(time.Microsecond), Verb: verb}
	for _, a := range arguments {
		step.Arguments = append(step.Arguments, fmt.Sprint(a))
	}
	p.script.Steps = append(p.script.Steps, step)
}

func (p *planner) server() string { return fmt.Sprintf("cs%d", p.IntN(p.script.servers())) }
func (p *planner) master() string { return fmt.Sprintf("m%d", p.IntN(2)) }

// fault adds one fault of any kind.
func (p *planner) fault(at time.Duration) {
	ms := 20 + p.IntN(1500)
	switch p.IntN(13) {
	case 0, 1, 2:
		p.crash(at, ms)
	case 3, 4:
		if p.IntN(4) == 0 {
			ms *= 4
		}
		p.add(at, "stop", p.server(), ms)
	case 5:
		p.add(at, "slow", p.server())
	case 6:
		p.add(at, "cut", p.server(), p.server(), ms)
	case 7:
		who := []string{"m0", "m1", "clients", p.server()}[p.IntN(4)]
		if p.IntN(2) == 0 {
			p.add(at, "deaf", p.server(), who, ms)
		} else {
			p.add(at, "deaf", who, p.server(), ms)
		}
	case 8:
		p.add(at, "cut", []string{"m0", "m1", "clients"}[p.IntN(3)], p.server(), ms)
	case 9:
		p.add(at, "break", p.server(), p.server())
	case 10:
		p.add(at, "lead", p.master())
	case 11:
		p.add(at, "lose", p.server(), p.server())
	case 12:
		m := p.master()
		p.add(at, "crash", m)
		p.add(at+time.Duration(ms)*time.Millisecond, "start", m)
	}
}

// crash ends a server's process, at once or soon, and mostly starts another.
func (p *planner) crash(at time.Duration, ms int) {
	victim := p.server()
	if p.IntN(2) == 0 {
		p.add(at, "crash", victim)
	} else {
		p.add(at, "crash", victim, 1+p.IntN(40))
	}
	if p.IntN(5) > 0 {
		if p.IntN(3) == 0 {
			ms = 5 + p.IntN(50)
		}
		p.add(at+time.Duration(ms)*2*time.Millisecond, "start", victim)
	}
}

// coincidence adds, now and then, faults that have to come together to do harm.
func (p *planner) coincidence(at time.Duration) {
	soon := func(ms int) time.Duration { return at + time.Duration(p.IntN(ms*1000))*time.Microsecond }
	switch victim, other := p.server(), p.server(); p.IntN(8) {
	case 0: // a primary is held up while others go on, and what it had sent comes late
		p.add(at, "late", victim, other, 500+p.IntN(2500))
		p.add(at, "break", victim, p.server())
		p.add(soon(80), "stop", victim, 350+p.IntN(3000))
		p.add(soon(150), "lead", p.master())
	case 1: // a process gets what was meant for the one before
		p.add(at-50*time.Millisecond, "echo", victim, 100+p.IntN(1500))
		p.add(at, "break", victim, p.server())
		p.add(soon(200), "crash", victim)
		p.add(soon(200)+200*time.Millisecond, "start", victim)
	case 2:
		p.crashes(at, victim)
	case 3: // so do all, again and again, and hold what was granted to the one before
		for i := range p.script.servers() {
			p.add(0, "echo", fmt.Sprintf("cs%d", i), 1500)
		}
		p.restarts(at)
	}
}

// restarts ends all processes at about the same time, and begins new ones at once, some times.
func (p *planner) restarts(at time.Duration) {
	for range 4 {
		for i := range p.script.servers() {
			name, when := fmt.Sprintf("cs%d", i), at+time.Duration(p.IntN(100))*time.Millisecond
			p.add(when, "crash", name)
			p.add(when+time.Duration(5+p.IntN(30))*time.Millisecond, "start", name)
		}
		at += 500 * time.Millisecond
	}
}

// crashes ends processes again and again in the middle of what they do: one server's, or all servers'.
func (p *planner) crashes(at time.Duration, victim string) {
	victims := []string{victim}
	if p.IntN(2) == 0 {
		for i := range p.script.servers() {
			victims = append(victims, fmt.Sprintf("cs%d", i))
		}
	}
	for range 5 {
		pause := time.Duration(100+p.IntN(300)) * time.Millisecond
		for _, name := range victims {
			p.add(at, "crash", name, 1+p.IntN(12))
			p.add(at+pause, "start", name)
		}
		at += pause + time.Duration(50+p.IntN(400))*time.Millisecond
	}
}

// outages loses power at some servers, at once or one after the other.
func (p *planner) outages(at time.Duration) {
	for range 1 + p.IntN(5) {
		victim := p.server()
		p.add(at, "power", victim)
		p.add(at+time.Duration(20+p.IntN(3000))*time.Millisecond, "start", victim)
		at += time.Duration(p.IntN(4)*p.IntN(300)) * time.Millisecond
	}
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
