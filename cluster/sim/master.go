package sim

import (
	"fmt"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/master"
	"github.com/cairnfs/cairn/messages/gfs"
)

// masterNode is a node with a master.
type masterNode struct {
	node
	cluster *cluster
	index   int
	starts  int
	master  *master.Simulated
	applied int                                  // records of the log that were given to the process
	applies bool                                 // one more is on its way
	apart   bool                                 // it hears nothing from the other masters
	pending map[int]func(outcome any, err error) // who waits for a record's outcome, by its place
}

// operationLog is the log of all masters: what is in it is committed. The leader alone adds to it.
type operationLog struct {
	records [][]byte
	leader  *masterNode
	term    int
}

// start begins a process.
func (m *masterNode) start() {
	if m.up() {
		return
	}
	m.starts++
	w := m.cluster.world
	m.life = &life{world: w, name: fmt.Sprintf("%s.%d", m.name, m.starts)}
	m.applied, m.applies, m.apart, m.pending = 0, false, false, make(map[int]func(any, error))
	simulated, err := master.StartSimulated(master.Config{
		ID: m.name, Cluster: clusterName, Log: m.cluster.log.WithField("node", m.life.name), Clock: w.clock, Random: m.cluster.bytes,
		Crash: m.cluster.crashed, ReplicationDelay: replicationDelay,
		TrashRetention: trashTime,
	}, m)
	if err != nil {
		w.fail("restart", "%s: %v", m.name, err)
		return
	}
	m.master = simulated
	w.note("%s starts", m.life.name)
	m.apply()
}

// crash ends the process. What it knew and did not log is gone.
func (m *masterNode) crash() {
	if m.up() {
		m.cluster.world.note("%s ends", m.life.name)
		m.life.end()
		if m.cluster.oplog.leader == m {
			m.cluster.oplog.leader = nil
		}
	}
}

// lead makes the process the leader; the one before hears of it later.
func (m *masterNode) lead() {
	c, w := m.cluster, m.cluster.world
	if !m.up() || c.oplog.leader == m {
		return
	}
	c.depose()
	c.oplog.leader, m.apart = m, false
	m.apply()
	w.note("%s leads", m.life.name)
	m.begin(c.oplog.term)
}

// depose ends the leadership of whoever leads. He hears of it later, and not at all if he leads again by then.
func (c *cluster) depose() {
	old := c.oplog.leader
	c.oplog.leader = nil
	c.oplog.term++
	if old == nil || !old.up() {
		return
	}
	c.note("%s leads no longer", old.life.name)
	before := old.master
	old.apart = c.chance(2)
	c.after(c.between(0, zombieTime), old.life, func() {
		if c.oplog.leader != old {
			before.Cease()
		}
		old.apart = false
		old.apply()
	})
}

// begin logs a new epoch once all that is committed was applied, and acts in it.
func (m *masterNode) begin(term int) {
	l := &m.cluster.oplog
	again := func() {
		m.cluster.world.after(epochPause, m.life, func() { m.begin(term) })
	}
	switch {
	case l.leader != m || l.term != term:
		return
	case m.applied < len(l.records):
		again()
		return
	}
	m.master.BeginEpoch(func(epoch gfs.Epoch, err error) {
		switch {
		case l.leader != m || l.term != term:
		case err != nil:
			again()
		default:
			m.cluster.world.note("%s acts in epoch %d", m.life.name, epoch)
			m.master.Act(epoch)
		}
	})
}

// apply gives the process what is committed, a record at a time.
func (m *masterNode) apply() {
	l, w := &m.cluster.oplog, m.cluster.world
	if m.applies || m.apart || !m.up() || m.applied == len(l.records) {
		return
	}
	m.applies = true
	index := m.applied
	w.after(m.life.scheduling(), m.life, func() {
		m.master.Apply(l.records[index], func(outcome any) {
			m.applied, m.applies = index+1, false
			if done := m.pending[index]; done != nil {
				delete(m.pending, index)
				done(outcome, nil)
			}
			m.apply()
		})
	})
}

// Stage and what follows are the master's surroundings.
func (m *masterNode) Stage() actors.Stage { return m.life }

// ProposeAsync adds a record to the log if the master leads when it gets there. Where it does not hear what came of it, it
// has lost the lead.
func (m *masterNode) ProposeAsync(record []byte, done func(outcome any, err error)) {
	c, w, l := m.cluster, m.cluster.world, &m.cluster.oplog
	term, proposer := l.term, m.life
	if l.leader != m {
		w.after(m.life.scheduling(), m.life, func() { done(nil, gfs.Errorf(gfs.CodeNotActing, "it does not lead")) })
		return
	}
	unknown := func() {
		if proposer == m.life && m.up() {
			w.after(0, m.life, func() { done(nil, gfs.Errorf(gfs.CodeOutcomeUnknown, "simulated doubt")) })
		}
	}
	commit := func(done func(any, error)) bool {
		if l.leader != m || l.term != term || proposer.dead {
			return false // it was never replicated
		}
		if done != nil {
			m.pending[len(l.records)] = done
		}
		c.commit(record)
		return true
	}
	delay := w.between(commitTime/4, commitTime)
	if c.network.faults > 0 && w.chance(c.network.faults) {
		w.after(delay, nil, func() {
			if w.chance(2) {
				commit(nil) // nobody hears of it before the next leader
			}
			unknown()
			if l.leader == m && l.term == term {
				c.depose()
			}
		})
		return
	}
	w.after(delay, nil, func() {
		if !commit(done) {
			unknown()
		}
	})
}

// LinearizeAsync checks that the master leads.
func (m *masterNode) LinearizeAsync(done func(error)) {
	l := &m.cluster.oplog
	index := len(l.records)
	var check func()
	check = func() {
		switch {
		case l.leader != m:
			done(gfs.Errorf(gfs.CodeNotActing, "it does not lead"))
		case m.applied < index:
			m.cluster.world.after(commitTime/4, m.life, check)
		default:
			done(nil)
		}
	}
	m.cluster.world.after(m.life.scheduling(), m.life, check)
}

// AskAsync sends an order.
func (m *masterNode) AskAsync(call bus.Call, on func(bus.Answer) (done bool)) {
	m.cluster.network.ask(&m.node, call, on)
}

// PublishJSON tells nobody.
func (m *masterNode) PublishJSON(string, any) error { return nil }
