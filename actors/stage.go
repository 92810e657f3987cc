package actors

import "time"

// Stage carries out a system's turns, timers and jobs in the place of goroutines and the clock, so that a simulation
// decides in which order they happen. Its methods are called by one goroutine at a time, and what it is given runs on
// that goroutine, or on one that nobody runs beside.
type Stage interface {
	// Turn runs f soon, not before Turn has returned. One actor's turns are asked for one at a time.
	Turn(f func())
	// After runs f when d has passed. stop takes it back and reports whether it was in time.
	After(d time.Duration, f func()) (stop func() bool)
	// Job runs f on a stack of its own, where it may wait in ways that the stage offers.
	Job(f func())
}

// mailbox is an actor's on a stage.
type mailbox struct {
	stage   Stage
	receive func(message any)
	waiting []any
	asked   bool // a turn was asked for and has not begun
}

func (m *mailbox) send(message any) {
	m.waiting = append(m.waiting, message)
	m.ask()
}

func (m *mailbox) ask() {
	if !m.asked && len(m.waiting) > 0 {
		m.asked = true
		m.stage.Turn(m.turn)
	}
}

func (m *mailbox) turn() {
	message := m.waiting[0]
	m.waiting[0] = nil
	m.waiting, m.asked = m.waiting[1:], false
	m.receive(message)
	m.ask()
}

// drop forgets what waits.
func (m *mailbox) drop() { m.waiting = nil }

// stagedJobs is a pool of workers on a stage.
type stagedJobs struct {
	stage          Stage
	workers, queue int
	running        int
	waiting        []func()
}

func (p *stagedJobs) submit(job func()) bool {
	switch {
	case p.running < p.workers:
		p.start(job)
	case len(p.waiting) < p.queue:
		p.waiting = append(p.waiting, job)
	default:
		return false
	}
	return true
}

func (p *stagedJobs) start(job func()) {
	p.running++
	p.stage.Job(func() {
		defer p.ended()
		job()
	})
}

func (p *stagedJobs) ended() {
	p.running--
	if len(p.waiting) > 0 {
		next := p.waiting[0]
		p.waiting = p.waiting[1:]
		p.start(next)
	}
}
