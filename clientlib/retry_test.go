package clientlib

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
)

// A call that was told what is short, and then nothing more in its time, ends with what is short; not so once it has moved.
func TestPatienceEndsWithTheShortage(t *testing.T) {
	c := &Client{life: t.Context(), options: options{timeout: time.Minute}}
	short := gfs.Errorf(gfs.CodeTooFewServers, "2 chunkservers are up, 3 replicas wanted")
	slow := gfs.Errorf(gfs.CodeOutcomeUnknown, "no answer")
	told := func() *patience {
		p := c.patience(t.Context())
		for _, last := range []error{slow, short, slow, nil} {
			if err := p.ended(last); err != nil {
				t.Fatalf("ended early: %v", err)
			}
		}
		return p
	}
	for _, last := range []error{slow, nil} {
		p := told()
		p.deadline = time.Now()
		if err := p.ended(last); !errors.Is(err, gfs.ErrTooFewServers) || !strings.Contains(err.Error(), "3 replicas wanted") {
			t.Errorf("the last was %v: ended with %v", last, err)
		}
		p = told()
		p.progress()
		p.deadline = time.Now()
		if err := p.ended(last); err == nil || errors.Is(err, gfs.ErrTooFewServers) {
			t.Errorf("after progress, the last was %v: ended with %v", last, err)
		}
	}
	p := told()
	p.tooFew = time.Now().Add(-tooFewPatience)
	if err := p.ended(short); !errors.Is(err, gfs.ErrTooFewServers) || !strings.Contains(err.Error(), tooFewPatience.String()) {
		t.Errorf("too few for long: %v", err)
	}
}
