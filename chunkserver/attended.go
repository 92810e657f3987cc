package chunkserver

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

const (
	// patientPings is how many pings in a row must go unanswered for gfs.MemberSilence each: a busy machine answers the
	// second.
	patientPings = 2
	// controlSilence is within what time this server's own data plane must answer it, or what another one's does not
	// answer says nothing: this process, or the machine under it, is held up itself.
	controlSilence = gfs.MemberSilence / 5
	// doubtedSilence is what a server has to answer one ping that somebody else has found silent already.
	doubtedSilence = gfs.PrepareSilence
)

// attendance watches the chunkservers that calls which may take long have been made to: one ping at a time to each,
// however many calls wait for it. It is safe for concurrent use; the zero value is ready.
type attendance struct {
	mu    sync.Mutex
	calls map[string][]*attendedCall // by the addresses that are watched, in the order of their beginnings
}

type attendedCall struct{ cancel context.CancelFunc }

// attended is ctx for a call to the chunkserver at address that may take long: it ends as well when that gives no sign
// of life. A server that only is slow answers pings meanwhile. release frees what that takes and must be called.
func (cs *Chunkserver) attended(ctx context.Context, address string) (_ context.Context, release func()) {
	ctx, cancel := context.WithCancel(ctx)
	a, call := &cs.attending, &attendedCall{cancel}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls == nil {
		a.calls = make(map[string][]*attendedCall)
	}
	_, watched := a.calls[address]
	a.calls[address] = append(a.calls[address], call)
	if !watched {
		cs.around.Go(func() { cs.watch(address) })
	}
	return ctx, func() {
		cancel()
		a.mu.Lock()
		defer a.mu.Unlock()
		a.calls[address] = slices.DeleteFunc(a.calls[address], func(c *attendedCall) bool { return c == call })
	}
}

// attendedAtOnce is attended for a call to a server that has to answer one ping at once, besides: somebody has found it silent
// already, or it costs little to do without it.
func (cs *Chunkserver) attendedAtOnce(ctx context.Context, address string) (_ context.Context, release func()) {
	bounded, cancel := context.WithCancel(ctx)
	cs.around.Go(func() {
		err := cs.pingDoubted(address)
		if err == nil || bounded.Err() != nil {
			return
		}
		cs.log.WithError(err).WithField("address", address).Warn("no sign of life at once")
		cancel()
	})
	both, watched := cs.attended(bounded, address)
	return both, func() {
		watched()
		cancel()
	}
}

// waiting lists the calls to an address, and ends the watch if there are none.
func (a *attendance) waiting(address string) []*attendedCall {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.calls[address]) == 0 {
		delete(a.calls, address)
		return nil
	}
	return slices.Clone(a.calls[address])
}

// watch pings an address while calls to it are under way, and ends those that were waiting when it fell silent. Those that
// came meanwhile hear of it with the next ping, for one that was silent for so long is given no second.
func (cs *Chunkserver) watch(address string) {
	for pings := patientPings; ; {
		err := cs.around.Pause(cs.ctx, gfs.BusyInterval) // most calls are over before the first ping
		calls := cs.attending.waiting(address)
		switch {
		case len(calls) == 0:
			return
		case err == nil:
			err = cs.ping(address, pings)
		}
		if err == nil {
			pings = patientPings
			continue
		}
		pings = 1
		if cs.ctx.Err() == nil {
			cs.log.WithError(err).WithField("address", address).Warn("no sign of life")
		}
		for _, c := range calls {
			c.cancel()
		}
	}
}

// ping asks for a sign of life, a number of times if there is merely no answer.
func (cs *Chunkserver) ping(address string, times int) error {
	for n := 0; ; n++ {
		late, err := cs.pingOnce(address, gfs.MemberSilence)
		switch {
		case err == nil || !late:
			return err
		case cs.heldUp():
			return nil
		case n+1 == times:
			return err
		}
	}
}

// pingDoubted is ping for a server that somebody has found silent already.
func (cs *Chunkserver) pingDoubted(address string) error {
	late, err := cs.pingOnce(address, doubtedSilence)
	if late && cs.heldUp() {
		return nil
	}
	return err
}

// heldUp reports whether this process is so slow at present that the silence of another says nothing.
func (cs *Chunkserver) heldUp() bool {
	_, err := cs.pingOnce(cs.self.Address, controlSilence)
	return err != nil
}

// pingOnce reports with an error whether it is that nothing was heard within the patience.
func (cs *Chunkserver) pingOnce(address string, patience time.Duration) (late bool, err error) {
	ctx, cancel := cs.around.WithTimeout(cs.ctx, patience)
	defer cancel()
	err = cs.around.Call(ctx, address, wire.OpPing, nil, nil)
	return errors.Is(ctx.Err(), context.DeadlineExceeded), err
}

// probe pings servers, all at once, and calls done, from any goroutine, with those that give no sign of life: within
// somewhat more than patientPings times gfs.MemberSilence, or doubtedSilence for those that are doubted.
func (cs *Chunkserver) probe(servers []*pb.Server, doubted []string, done func(silent []string)) {
	if len(servers) == 0 {
		done(nil)
		return
	}
	var mu sync.Mutex
	var silent []string
	left := len(servers)
	for _, s := range servers {
		cs.around.Go(func() {
			var err error
			if slices.Contains(doubted, s.Id) {
				err = cs.pingDoubted(s.Address)
			} else {
				err = cs.ping(s.Address, patientPings)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent = append(silent, s.Id)
			}
			if left--; left == 0 {
				done(silent)
			}
		})
	}
}
