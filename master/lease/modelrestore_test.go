package lease

import (
	"testing"

	"github.com/cairnfs/cairn/messages/gfs"
	"pgregory.net/rapid"
)

// All masters are lost and the log is restored from a backup, at any moment, while primaries and late orders of the masters
// before go on: in the first version that is logged then, every good replica holds all that was ever acknowledged, also
// what the backup is too old to know of.
func TestNothingAcknowledgedIsLostByAnOldBackup(t *testing.T) {
	older, opened := 0, 0
	for range 20 {
		rapid.Check(t, func(t *rapid.T) {
			w := newWorld(t, rapid.IntRange(1, 4).Draw(t, "replicas"), rapid.IntRange(0, 1).Draw(t, "spare"))
			w.calm = rapid.Bool().Draw(t, "calm")
			steps := []func(){
				w.deliver, w.deliver, w.deliver, w.deliver, w.deliver, w.deliver, w.work, w.work, w.work, w.commit, w.commit, w.listen,
				w.listen, w.ask, w.pass, w.bring, w.bring, w.quietly, w.seldom(w.restart), w.seldom(w.takeOver), w.seldom(w.lose),
			}
			for range rapid.IntRange(0, 2).Draw(t, "restorations") + 1 {
				w.stumble(steps, rapid.IntRange(0, 200).Draw(t, "steps before the backup"))
				backup := w.logged
				w.stumble(steps, rapid.IntRange(0, 300).Draw(t, "steps after the backup"))
				if w.logged.Version > backup.Version {
					older++
				}
				w.restore(backup)
			}
			before := w.opened
			w.stumble(steps, 400)
			if w.opened > before && w.logged.Version.Epoch() >= w.restored {
				opened++
			}
		})
	}
	t.Logf("%d backups were older than the chunk, %d runs opened it again", older, opened)
	if older == 0 || opened == 0 {
		t.Error("the model never got anywhere")
	}
}

func (w *world) stumble(steps []func(), count int) {
	for range count {
		steps[rapid.IntRange(0, len(steps)-1).Draw(w.t, "step")]()
		w.invariant()
	}
}

// restore ends all masters and begins anew with a log as it was. What they sent is still under way.
func (w *world) restore(backup Logged) {
	for _, m := range w.masters {
		if m.core != nil {
			m.core.Stop(gfs.Errorf(gfs.CodeNotActing, "killed"))
			w.carry(m)
		}
		m.core, m.acting, m.record = nil, false, nil
	}
	w.masters = nil
	w.logged = backup
	w.epoch += 1000
	w.takeOver()
	w.restored = w.epoch
}
