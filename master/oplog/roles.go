package oplog

import (
	"github.com/hashicorp/raft"
	"github.com/sirupsen/logrus"
)

// Acting reports whether this master may act: it leads its group, and everything that was committed before it led
// is applied here. It can lag behind a loss of leadership, which is why reads need Linearize and orders an epoch.
func (l *Log) Acting() bool { return l.term.Load() != 0 }

// Term is the term in which this master acts, or 0. Two periods of acting never share a term.
func (l *Log) Term() uint64 { return l.term.Load() }

// Changes delivers true after this master began to act and false after it ceased. Only the newest change is kept
// for a slow receiver: who receives true again has missed a false, and sees another Term. There is one channel
// for all receivers; it is never closed.
func (l *Log) Changes() <-chan bool { return l.changes }

// watchRole turns Raft's changes of leadership into ours.
func (l *Log) watchRole() {
	for {
		select {
		case leads := <-l.roles:
			l.cease()
			if leads {
				l.takeUp()
			}
		case <-l.stop:
			l.cease()
			return
		}
	}
}

// takeUp makes this master act, once an entry of its own term, and with it all before, is applied.
func (l *Log) takeUp() {
	term := l.raft.CurrentTerm()
	future := l.raft.ApplyLog(raft.Log{Data: encodeBatch(nil)}, 0)
	if err := future.Error(); err != nil {
		l.log.WithFields(logrus.Fields{"op": "take up", "err": err}).Debug("leadership lost before it began")
		return
	}
	if result, ok := future.Response().(applyResult); !ok || result.err != nil {
		return // the log has failed
	}
	if l.raft.CurrentTerm() != term {
		return // lost meanwhile: that change is on its way
	}
	l.term.Store(term)
	l.announce(true)
	l.log.WithFields(logrus.Fields{"op": "take up", "term": term, "applied": l.applier.applied.Load()}).Info("master begins to act")
}

// cease makes this master not act.
func (l *Log) cease() {
	term := l.term.Swap(0)
	if term == 0 {
		return
	}
	l.announce(false)
	signal(l.proposals.wake) // what waits is refused
	l.log.WithFields(logrus.Fields{"op": "cease", "term": term}).Info("master ceases to act")
}

// announce puts a change in place of one that nobody has taken yet. Only watchRole sends.
func (l *Log) announce(acting bool) {
	for {
		select {
		case l.changes <- acting:
			return
		default:
		}
		select {
		case <-l.changes:
		default:
		}
	}
}
