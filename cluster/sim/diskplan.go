package sim

import (
	"math/rand/v2"
	"slices"
	"time"
)

// hasBadDisks says of which seeds the script has disks with which something is wrong: of a quarter.
func (s Script) hasBadDisks() bool { return s.Seed%8 >= 6 }

// planDisks adds what is wrong with disks to a script that is drawn: to the steps that it has, or, to see what one disk
// does that may lose all that is on it, in their place.
func planDisks(s Script) Script {
	p := planner{Rand: rand.New(rand.NewPCG(s.Seed, 0xd15c)), script: s}
	within := func() time.Duration { return faultBegin + time.Duration(p.Int64N(int64(faultEnd-faultBegin)*2/3)) }
	if p.IntN(2) == 0 {
		for range 2 + p.IntN(8) {
			p.badDisk(within(), p.server(), diskVerbs)
		}
		return p.script
	}
	victim := p.server()
	p.script.Steps = slices.DeleteFunc(p.script.Steps, func(step Step) bool { return !apart(step) })
	for range 2 + p.IntN(10) {
		p.badDisk(within(), victim, append([]string{flipBit, flipBit}, diskVerbs...))
	}
	for range p.IntN(3) { // it has no other trouble that would keep it from being heard of
		at := within()
		p.add(at, "crash", victim)
		p.add(at+time.Duration(5+p.IntN(1500))*time.Millisecond, "start", victim)
	}
	return p.script
}

// apart reports whether a step has nothing to do with what befalls servers.
func apart(step Step) bool {
	return step.Verb == "lead" || step.Verb == stepWide || changesFiles(step.Verb)
}

// badDisk adds one step about a disk.
func (p *planner) badDisk(at time.Duration, victim string, verbs []string) {
	switch verb := verbs[p.IntN(len(verbs))]; {
	case verb == flipBit || p.IntN(2) == 0:
		p.add(at, verb, victim)
	default:
		p.add(at, verb, victim, 5+p.IntN([]int{50, 500, 3000}[p.IntN(3)]))
	}
}

// badDisks reports whether anything is wrong with a disk: what is not synced may be lost, if all replicas are suspect.
func (s Script) badDisks() bool {
	return slices.ContainsFunc(s.Steps, func(step Step) bool {
		return step.Verb == flipBit || slices.Contains(diskVerbs, step.Verb)
	})
}

// oneDisk reports whether one server alone has trouble, with its disk and of its own: then nothing keeps the others from
// holding what that one loses.
func (s Script) oneDisk() bool {
	if !s.badDisks() {
		return false
	}
	victim := ""
	for _, step := range s.Steps {
		switch {
		case apart(step):
			continue
		case step.Verb == flipBit, step.Verb == "crash", step.Verb == "start", slices.Contains(diskVerbs, step.Verb):
		default:
			return false
		}
		if len(step.Arguments) == 0 || victim != "" && step.Arguments[0] != victim {
			return false
		}
		victim = step.Arguments[0]
	}
	return true
}
