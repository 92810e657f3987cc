package chunkserver

import (
	"context"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/wire"
)

// attended is ctx for a call to the chunkserver at address that may take long: it ends as well when that gives no sign
// of life for gfs.MemberSilence. A server that only is slow answers pings meanwhile. release frees what that takes and
// must be called.
func (cs *Chunkserver) attended(ctx context.Context, address string) (_ context.Context, release func()) {
	ctx, cancel := context.WithCancel(ctx)
	cs.around.Go(func() {
		for cs.around.Pause(ctx, gfs.BusyInterval) == nil { // most calls are over before the first ping
			if err := cs.ping(ctx, address); err != nil {
				if ctx.Err() == nil {
					cs.log.WithError(err).WithField("address", address).Warn("no sign of life")
				}
				cancel()
				return
			}
		}
	})
	return ctx, cancel
}

// ping asks for a sign of life.
func (cs *Chunkserver) ping(ctx context.Context, address string) error {
	ctx, cancel := cs.around.WithTimeout(ctx, gfs.MemberSilence)
	defer cancel()
	return cs.around.Call(ctx, address, wire.OpPing, nil, nil)
}
