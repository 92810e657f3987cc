package sim

import (
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
)

// restTime is what the cluster has to come to rest after the faults.
const restTime = 120 * time.Second

// Result is what a run was.
type Result struct {
	Hash      uint64 // of the history: equal for equal runs
	Events    int
	Mutations int // completed
	Reads     int
	Named     int           // mutations whose data were pushed, at their primaries and in frames down the chains
	Time      time.Duration // simulated
}

// Trace hears what happens in a run.
type Trace func(at time.Duration, text string)

// Run carries out a script. The Failure is nil if no checker found anything. trace may be nil.
func Run(s Script, trace Trace) (*Failure, Result) {
	dir, err := scratch()
	if err != nil {
		return &Failure{Checker: "set-up", Detail: err.Error()}, Result{}
	}
	defer func() { _ = os.RemoveAll(dir) }()
	w := newWorld(s.Seed)
	w.trace = trace
	c, err := newCluster(w, dir, newLog(w, trace), s)
	if err != nil {
		return &Failure{Checker: "set-up", Detail: err.Error()}, Result{}
	}
	defer c.end()
	for _, step := range s.Steps {
		w.after(step.At, nil, func() { c.befall(step) })
	}
	c.checks.watch()
	w.run(faultEnd)
	c.heal()
	for end := w.now + restTime; w.failure == nil && w.now < end; {
		w.run(w.now + 500*time.Millisecond)
		if w.failure != nil || c.checks.rest() == "" {
			break
		}
	}
	if w.failure == nil {
		c.checks.look(true)
	}
	if w.failure == nil {
		if what := c.checks.rest(); what != "" {
			c.checks.describe()
			w.fail(checkSettled, "%s after %v", what, restTime)
		}
	}
	var failure *Failure
	errors.As(w.failure, &failure)
	return failure, Result{Hash: w.hash, Events: w.steps, Mutations: c.checks.writes, Reads: c.checks.reads, Named: c.checks.pushed.references + c.checks.pushed.frames, Time: w.now}
}

// newLog is the log of all that is simulated: part of the trace.
func newLog(w *world, trace Trace) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	log.SetLevel(logrus.PanicLevel)
	if trace != nil {
		log.SetLevel(logrus.DebugLevel)
		log.AddHook(hook{w, trace})
	}
	return log
}

// hook passes log lines on to the trace.
type hook struct {
	world *world
	trace Trace
}

func (hook) Levels() []logrus.Level { return logrus.AllLevels }

func (h hook) Fire(e *logrus.Entry) error {
	text := e.Message
	for _, key := range []string{"node", "actor", "chunk", "version", "server", "op", "accused", "about", "detail", "err", "error"} {
		if value, found := e.Data[key]; found {
			text += " " + key + "=" + toText(value)
		}
	}
	h.trace(h.world.now, "  "+text)
	return nil
}

func toText(value any) string {
	switch v := value.(type) {
	case string:
		return strconv.Quote(v)
	case error:
		return strconv.Quote(v.Error())
	case interface{ String() string }:
		return v.String()
	}
	return "?"
}

// node finds a node by its name, nil if this cluster has none of it.
func (c *cluster) node(name string) *node {
	for _, s := range c.servers {
		if s.name == name {
			return &s.node
		}
	}
	for _, m := range c.masters {
		if m.name == name {
			return &m.node
		}
	}
	if name == c.clients.node.name {
		return &c.clients.node
	}
	return nil
}

// process is what can be done to a node's process.
type process interface {
	start()
	crash()
}

func (c *cluster) process(name string) process {
	for _, s := range c.servers {
		if s.name == name {
			return s
		}
	}
	for _, m := range c.masters {
		if m.name == name {
			return m
		}
	}
	return nil
}

// befall carries out a step. Steps about nodes that there are not, and such as make no sense at present, do nothing.
func (c *cluster) befall(step Step) {
	c.note("step %s", step)
	if c.befallFile(step) {
		return
	}
	c.troubled = c.troubled || step.Verb != stepWide
	var nodes []*node
	var number int
	for _, a := range step.Arguments {
		if n, err := strconv.Atoi(a); err == nil {
			number = n
		} else if n := c.node(a); n != nil {
			nodes = append(nodes, n)
		} else {
			return
		}
	}
	until := c.now + time.Duration(number)*time.Millisecond
	switch {
	case step.Verb == "faults":
		c.network.faults = number
	case len(nodes) == 0:
	case step.Verb == "start":
		c.process(nodes[0].name).start()
	case slices.Contains(diskVerbs, step.Verb) || step.Verb == flipBit:
		if s, is := c.process(nodes[0].name).(*server); is {
			s.befallDisk(step.Verb, time.Duration(number)*time.Millisecond)
		}
	case !nodes[0].up():
	case step.Verb == "crash" && number == 0:
		c.process(nodes[0].name).crash()
	case step.Verb == "crash":
		if s, is := c.process(nodes[0].name).(*server); is {
			s.untilCrash = number
		}
	case step.Verb == "power":
		if s, is := c.process(nodes[0].name).(*server); is {
			s.losePower()
		}
	case step.Verb == "stop":
		nodes[0].life.stoppedUntil = max(nodes[0].life.stoppedUntil, until) // or what it is held from would come behind what is new
	case step.Verb == "slow":
		nodes[0].life.slow = true
	case step.Verb == "echo":
		c.network.echo[nodes[0]] = time.Duration(number) * time.Millisecond
	case step.Verb == "lead":
		if m, is := c.process(nodes[0].name).(*masterNode); is {
			m.lead()
		}
	case len(nodes) < 2 || nodes[0] == nodes[1]:
	case step.Verb == "cut":
		c.network.cut[link{nodes[0], nodes[1]}] = until
		c.network.cut[link{nodes[1], nodes[0]}] = until
	case step.Verb == "deaf":
		c.network.cut[link{nodes[0], nodes[1]}] = until
	case step.Verb == "late":
		c.network.late[link{nodes[0], nodes[1]}] = time.Duration(number) * time.Millisecond
	case step.Verb == "lose":
		c.network.lose[link{nodes[0], nodes[1]}] = true
	case step.Verb == "break":
		c.network.breakBetween(nodes[0], nodes[1])
	}
}

// breakBetween breaks the streams between two nodes.
func (n *network) breakBetween(a, b *node) {
	for _, s := range append([]*stream(nil), n.streams...) {
		x, y := s.ends[0].node, s.ends[1].node
		if x == a && y == b || x == b && y == a {
			s.finish()
		}
	}
}

// heal ends all faults.
func (c *cluster) heal() {
	c.note("all faults end")
	if c.clients.changes {
		c.clients.confirm()
	}
	c.network.faults = 0
	clear(c.network.cut)
	clear(c.network.lose)
	clear(c.network.late)
	clear(c.network.echo)
	for _, m := range c.masters {
		c.goOn(m.life)
		m.start()
	}
	for _, s := range c.servers {
		s.untilCrash = 0
		s.healDisk()
		c.goOn(s.life)
		s.life.slow = false
		s.start()
	}
	if len(c.flips) > 0 {
		c.patrol()
	}
}
