package chunkserver

import (
	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/messages/gfs"
)

// chainWorkers are the workers that open chains: those at one position wait for the member at the next. Each position
// has its own, and the last member waits for its disk alone, so chains that cross cannot dead-lock: with one pool, as
// many primaries as it has workers would wait at each server for members that find none there.
type chainWorkers [gfs.MaxReplicas - 1]*actors.Workers

// How many chains are opened at once at each position of each server, and how many wait for that.
const (
	chainWorkersEach = 64
	chainQueueEach   = 4096
)

func newChainWorkers(stage actors.Stage) (w chainWorkers) {
	for position := range w {
		w[position] = actors.NewWorkersOn(stage, chainWorkersEach, chainQueueEach)
	}
	return w
}

// stop waits for every job to end.
func (w *chainWorkers) stop() {
	for _, workers := range w {
		workers.Stop()
	}
}

// chainPool is who does the slow work of the member at a position of a chain.
func (cs *Chunkserver) chainPool(position, members int) *actors.Workers {
	if position == members-1 {
		return cs.disk
	}
	return cs.chains[position]
}
