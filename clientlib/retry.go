package clientlib

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
)

// The pauses between attempts: short at first, since most faults are over in a moment.
const (
	firstPause = 5 * time.Millisecond
	maxPause   = 400 * time.Millisecond
)

// tooFewPatience is how long a call waits for chunkservers to come up that nobody may have started: those that
// restart are back within a moment.
const tooFewPatience = 5 * time.Second

// patience bounds the attempts of one call: by the caller's context, by the client's life, and by the client's
// timeout without progress. It is not safe for concurrent use.
type patience struct {
	client   *Client
	ctx      context.Context // the caller's
	limit    time.Duration
	deadline time.Time
	attempts int
	call     uint64    // its id in the logs of all who work on it
	tooFew   time.Time // since when too few chunkservers are up for the call, zero while that is not known
	shortage error     // what was said of that last: it says more than a master that is slow to say it again
}

// patience begins a call under ctx.
func (c *Client) patience(ctx context.Context) *patience {
	p := &patience{client: c, ctx: ctx, limit: c.options.timeout, call: c.calls.Add(1)}
	p.progress()
	return p
}

// part begins what goes on beside the rest of the same call.
func (p *patience) part() *patience {
	part := p.client.patience(p.ctx)
	part.call = p.call
	return part
}

// log is the client's log for what happens in the call.
func (p *patience) log() *logrus.Entry { return p.client.callLog(p.call) }

// callLog is the client's log for what happens in a call.
func (c *Client) callLog(call uint64) *logrus.Entry {
	return c.log.WithField("request", messages.CallID(call))
}

// debugging reports whether anybody reads what is only for a search for faults: what costs nothing otherwise.
func (c *Client) debugging() bool { return c.log.Logger.IsLevelEnabled(logrus.DebugLevel) }

// progress says that something moved: the time without progress begins anew, and so do the pauses.
func (p *patience) progress() {
	p.deadline = time.Now().Add(p.limit)
	p.attempts = 0
	p.tooFew, p.shortage = time.Time{}, nil
}

// left is how long the call may still go on without progress.
func (p *patience) left() time.Duration { return time.Until(p.deadline) }

// ended is nil while the call may go on; otherwise it says why it ends, with last as the reason behind it.
func (p *patience) ended(last error) error {
	if errors.Is(last, gfs.ErrTooFewServers) {
		p.shortage = last
	}
	switch {
	case p.client.life.Err() != nil:
		return errClientClosed()
	case p.ctx.Err() != nil:
		return withReason(context.Cause(p.ctx), last)
	case errors.Is(last, gfs.ErrTooFewServers) && p.tooFewLongEnough():
		return fmt.Errorf("%w (for %v)", last, tooFewPatience)
	case p.left() > 0:
		return nil
	case p.shortage != nil:
		return fmt.Errorf("%w (no progress for %v)", p.shortage, p.limit)
	case last == nil:
		return gfs.Errorf(gfs.CodeUnavailable, "no progress for %v", p.limit)
	case errors.Is(last, gfs.ErrUnavailable) || errors.Is(last, gfs.ErrBusy):
		return fmt.Errorf("%w (no progress for %v)", last, p.limit)
	}
	return fmt.Errorf("%w: no progress for %v: %w", gfs.ErrUnavailable, p.limit, last)
}

// tooFewLongEnough reports whether too few chunkservers have been up for tooFewPatience; the first call begins the time.
func (p *patience) tooFewLongEnough() bool {
	if p.tooFew.IsZero() {
		p.tooFew = time.Now()
	}
	return time.Since(p.tooFew) >= tooFewPatience
}

// withReason adds what went wrong last to the end of a context.
func withReason(ended, last error) error {
	if last == nil || errors.Is(last, context.Canceled) || errors.Is(last, context.DeadlineExceeded) {
		return ended
	}
	return fmt.Errorf("%w (last: %w)", ended, last)
}

// pause waits before the next attempt, longer each time, with jitter. The error, if any, ends the call.
func (p *patience) pause(last error) error {
	if err := p.ended(last); err != nil {
		return err
	}
	wait := min(firstPause<<min(p.attempts, 16), maxPause)
	wait = min(wait/2+rand.N(wait), max(p.left(), 0))
	p.attempts++
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.ctx.Done():
	case <-p.client.life.Done():
	}
	return p.ended(last)
}

// await waits for done within the call's patience.
func (p *patience) await(done <-chan struct{}) error {
	for {
		over, err := p.awaitFor(done, p.left())
		if over || err != nil {
			return err
		}
	}
}

// awaitFor is await for at most d: then over is false, and there is no error.
func (p *patience) awaitFor(done <-chan struct{}, d time.Duration) (over bool, err error) {
	timer := time.NewTimer(max(min(p.left(), d), 0))
	defer timer.Stop()
	select {
	case <-done:
		return true, nil
	case <-timer.C:
		if p.left() > 0 {
			return false, nil
		}
	case <-p.ctx.Done():
	case <-p.client.life.Done():
	}
	return false, p.ended(nil)
}
