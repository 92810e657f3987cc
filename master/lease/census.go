package lease

import (
	"fmt"
	"strings"

	"github.com/cairnfs/cairn/master/placement"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages/gfs"
)

// census is what the registry's answer comes to.
type census struct {
	tell     []registry.Replica // good, up and not left out
	relay    []registry.Replica // good, and told by way of the one that is told
	suspects []registry.Replica // good but for a suspicion, and up
	sound    int                // good ones, up or not
	unheard  int                // members that this master never heard of, but for the next
	accused  int                // members that it never heard of and somebody else complained of
	missing  []placement.Server // good ones that are down or left out, without a complaint
	suspect  int                // suspects, up or not
	corrupt  int                // members whose replicas are known to be lost
	learners int                // members that were joiners and, as far as was heard, never brought in
	joiners  []registry.Replica // learners that promised the version, and up: nobody knows whether they were brought in since
	down     []string
}

func (c *Chunk) count(replicas []registry.Replica) census {
	var s census
	accusedUnheard := len(c.episode.accused)
	for _, r := range replicas {
		_, out := c.episode.out[process{r.ID, r.Incarnation}]
		member := r
		member.State = gfs.ReplicaMember
		switch {
		case r.State == gfs.ReplicaCorrupt && member.Good(c.base):
			s.corrupt++ // nothing is to be hoped for from it
		case r.State == gfs.ReplicaSuspect && member.Good(c.base):
			s.suspect++
			if r.Up && !out {
				s.suspects = append(s.suspects, r)
			}
		case r.Good(c.base):
			s.sound++
			switch {
			case c.episode.relayed[r.ID]:
				s.relay = append(s.relay, r)
			case r.Up && !out:
				s.tell = append(s.tell, r)
			case !c.episode.accused[r.ID]:
				s.missing = append(s.missing, r.Server)
			}
			if !r.Up {
				s.down = append(s.down, string(r.ID))
			}
		case c.counted == memberOf{c.logged.Version, r.ID} || c.episode.learners[process{r.ID, r.Incarnation}]:
			s.learners++
		case r.State == gfs.ReplicaLearner && r.Promised == c.base && r.Up && !out:
			s.joiners = append(s.joiners, r)
			continue
		default:
			continue
		}
		if c.episode.accused[r.ID] {
			accusedUnheard--
		}
	}
	absent := max(0, c.logged.Members-s.sound-s.suspect-s.corrupt-s.learners)
	s.accused = min(absent, accusedUnheard)
	s.unheard = absent - s.accused
	s.tell = s.tell[:min(len(s.tell), gfs.MaxReplicas)]
	if len(s.tell) == 0 {
		for _, r := range s.relay { // nobody is left to pass anything on
			s.missing = append(s.missing, r.Server)
		}
		s.relay = nil
	}
	s.relay = s.relay[:min(len(s.relay), gfs.MaxReplicas-len(s.tell))]
	return s
}

// restored reports whether the log may lack configurations of the chunk, for it was restored from a backup since it was
// configured.
func (c *Chunk) restored() bool { return c.logged.Version.Epoch() < c.cfg.Restored }

// newest is the version that an attempt has to start from. That is the logged one, unless the log may lack newer ones:
// then it is the newest that any replica has promised. Whether that one was logged nobody needs to know. If it was, those
// that promised it are its members. If not, they are members of the one before, frozen, and none was logged since.
func (c *Chunk) newest(replicas []registry.Replica) gfs.Version {
	newest := c.logged.Version
	if c.restored() {
		for _, r := range replicas {
			newest = max(newest, r.Newest(c.cfg.Restored))
		}
	}
	return newest
}

// why says what is known of the members that cannot be told.
func (c *Chunk) why(s census) string {
	why := []string{}
	if len(s.down) > 0 {
		why = append(why, "down: "+strings.Join(s.down, ", "))
	}
	if s.corrupt > 0 {
		why = append(why, fmt.Sprintf("corrupt: %d", s.corrupt))
	}
	if unheard := s.unheard + s.accused; unheard > 0 {
		why = append(why, fmt.Sprintf("never heard of: %d", unheard))
	}
	if reasons := c.reasons(); reasons != "" {
		why = append(why, reasons)
	}
	return strings.Join(why, "; ")
}

func (c *Chunk) nobodyLeft(s census) error {
	return gfs.Errorf(gfs.CodeUnavailable, "no good replica of chunk %s can be reached, %d exist (%s): start the chunkservers that hold them",
		c.cfg.Handle, c.logged.Members, c.why(s))
}

// notYet is what those who want the chunk hear during a grace.
func (c *Chunk) notYet(s census) error {
	return gfs.Errorf(gfs.CodeUnavailable, "chunk %s has %d replicas, of which %d can be reached (%s): it waits for the others for %v before it goes on without them",
		c.cfg.Handle, c.logged.Members, len(s.tell)+len(s.relay), c.why(s), Grace)
}
