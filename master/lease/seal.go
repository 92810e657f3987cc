package lease

import (
	"errors"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Seal asks for the chunk to be closed now, whoever mutates it. The waiter is answered once, without a location when the
// log has the chunk closed. That lasts until somebody Wants it: the asker sees to it that nobody does.
//
// An open chunk's primary is told to close; one without a live primary gets one first, as with Revive.
func (c *Chunk) Seal(waiter uint64, now time.Time) {
	if len(c.sealers) >= maxWaiters {
		c.answer(Answer{Waiter: waiter, Err: gfs.Errorf(gfs.CodeBusy, "%d requests wait for the close of chunk %s", maxWaiters, c.cfg.Handle)})
		return
	}
	switch {
	case c.phase == InDoubt || c.phase == Ended:
		c.answer(Answer{Waiter: waiter, Err: c.gone()})
		return
	case c.phase == Idle && !c.logged.Open:
		c.answer(Answer{Waiter: waiter})
		return
	}
	c.sealers = append(c.sealers, waiter)
	switch c.phase {
	case Idle:
		c.begin(now)
	case Open:
		c.orderClose()
	}
}

// orderClose tells the primary of the open chunk to close it.
func (c *Chunk) orderClose() {
	c.out.Orders = append(c.out.Orders, Order{Kind: Close, To: c.primary, Version: c.logged.Version})
}

// CloseOrdered hands in a primary's answer to the order to close: nil when it has begun, and then CloseRequested follows
// or a complaint. Otherwise the chunk needs a new version, whose primary is told again.
func (c *Chunk) CloseOrdered(server gfs.ServerID, version gfs.Version, err error, now time.Time) {
	if err == nil || c.phase != Open || version != c.logged.Version || server != c.primary.ID || len(c.sealers) == 0 {
		return
	}
	if errors.Is(err, gfs.ErrStaleEpoch) {
		c.deposed()
		return
	}
	c.begin(now)
	if unreachable(err) {
		c.episode.accuse(server)
	}
}

// sealed answers those who waited for the close, which is in the log.
func (c *Chunk) sealed() {
	for _, waiter := range c.sealers {
		c.answer(Answer{Waiter: waiter})
	}
	c.sealers = nil
}
