package lease

import (
	"fmt"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"pgregory.net/rapid"
)

func TestNoGoodReplicaLacksWhatWasAcknowledged(t *testing.T) {
	opened, acked, joined, late := 0, 0, 0, 0
	for range 20 { // what goes wrong is rare: more runs than a property gets by default
		rapid.Check(t, func(t *rapid.T) {
			w := runWorld(t)
			opened, joined, late = opened+w.opened, joined+w.joined, late+w.late
			for _, m := range w.mutations {
				if m.acked {
					acked++
				}
			}
		})
	}
	t.Logf("%d answers with a primary, %d mutations acknowledged, %d joiners counted, %d left out", opened, acked, joined, late)
	if opened == 0 || acked == 0 || joined == 0 || late == 0 {
		t.Error("the model never got anywhere")
	}
}

func runWorld(t *rapid.T) *world {
	w := newWorld(t, rapid.IntRange(1, 4).Draw(t, "replicas"), rapid.IntRange(0, 1).Draw(t, "spare"))
	steps := []func(){
		w.deliver, w.deliver, w.deliver, w.deliver, w.deliver, w.work, w.work, w.work, w.commit, w.commit,
		w.ask, w.ask, w.pass, w.listen, w.listen, w.seldom(w.mislead), w.seldom(w.restart), w.seldom(w.takeOver), w.bring, w.bring, w.seldom(w.lose),
	}
	if w.calm = rapid.Bool().Draw(t, "calm"); w.calm { // in turmoil few joins get far
		steps = []func(){
			w.deliver, w.deliver, w.deliver, w.deliver, w.deliver, w.deliver, w.work, w.work, w.work, w.commit, w.commit, w.commit,
			w.listen, w.listen, w.bring, w.bring, w.quietly, w.seldom(w.ask), w.seldom(w.pass), w.seldom(w.restart), w.seldom(w.takeOver),
		}
	}
	for range rapid.IntRange(200, 500).Draw(t, "steps") {
		steps[rapid.IntRange(0, len(steps)-1).Draw(t, "step")]()
		w.invariant()
	}
	for _, m := range w.masters {
		if m.core != nil {
			m.core.Stop(gfs.Errorf(gfs.CodeNotActing, "the end"))
			w.carry(m)
		}
	}
	if len(w.waiting) > 0 {
		t.Fatalf("%d waiters were never answered", len(w.waiting))
	}
	return w
}

// TestVersionsOnlyGrow feeds arbitrary inputs: no version is used for two attempts, and no input panics.
func TestVersionsOnlyGrow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &script{now: time.Unix(1_000_000, 0), epoch: 2}
		s.run([]string{"chunk", "version=1.1", "members=2", "replicas=2", "open=" + rapid.SampledFrom([]string{"true", "false"}).Draw(t, "open")})
		server := rapid.SampledFrom([]string{"a", "b"})
		for i := range rapid.IntRange(1, 80).Draw(t, "inputs") {
			v, of, logged := gfs.NewVersion(2, s.attempts).String(), server.Draw(t, "server"), s.c.Logged()
			input := rapid.SampledFrom([][]string{
				{"want", fmt.Sprint(1000 + i)}, {"want", fmt.Sprint(2000 + i), "failed=" + logged.Version.String() + "@" + of},
				{"located", "a:" + logged.Version.String(), "b:" + logged.Version.String()}, {"located", of + ":" + logged.Version.String()},
				{"prepared", of, v, "active=" + logged.Version.String()}, {"prepared", of, v, "busy=true"}, {"prepared", of, v, "err=unavailable"},
				{"recorded"}, {"recorded", "err=busy"}, {"granted", of, v}, {"granted", of, v, "accused=" + server.Draw(t, "other")},
				{"granted", of, v, "err=incarnation"}, {"lease", of, logged.Version.String(), "members=" + of, "extend=true"}, {"down", of},
				{"close", fmt.Sprint(3000 + i), logged.Version.String(), "server=" + of}, {"advance", "300ms"}, {"advance", "61s"}, {"revive"},
				{"seal", fmt.Sprint(4000 + i)}, {"close-ordered", of, logged.Version.String(), "err=unavailable"}, {"close-ordered", of, logged.Version.String()},
				{"report", logged.Version.String(), "reporter=a", "accused=" + of},
				{"join", "c", logged.Version.String(), "a"}, {"cloned", "c", v, "differing=" + rapid.SampledFrom([]string{"1", "16"}).Draw(t, "differing")},
				{"prepared", "c", v, "active=1.1", "state=learner", "digest=x"}, {"down", "c"},
			}).Draw(t, "input")
			before := s.attempts
			s.run(input)
			if s.c.Logged().Version < logged.Version {
				t.Fatalf("the logged version went back from %s to %s", logged.Version, s.c.Logged().Version)
			}
			if s.attempts > before+1 {
				t.Fatalf("%v drew %d versions", input, s.attempts-before)
			}
		}
	})
}
