package chaos

import (
	"context"
	"slices"
	"sync"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/messages/gfs"
)

// place is one chunk of a file.
type place struct {
	file  string
	index int64
}

// chunkAt is what is known of a chunk at one moment.
type chunkAt struct {
	handle  gfs.ChunkHandle
	members []gfs.ServerID // in the order of the chain, as the last configuration had them
	last    bool           // of its file
	phase   Phase
}

// scene is all chunks at one moment.
type scene map[place]chunkAt

// look asks the master for all chunks of all files. What the logs said of them may be from a moment before.
func (r *run) look(ctx context.Context, client *clientlib.Client, phases map[gfs.ChunkHandle]Phase, chains map[gfs.ChunkHandle][]gfs.ServerID) (scene, error) {
	now := scene{}
	for _, path := range paths {
		found, err := client.Locations(ctx, path, 0, gfs.MaxFileBytes)
		if err != nil {
			return nil, err
		}
		for i, l := range found {
			at := chunkAt{handle: l.Handle, members: chains[l.Handle], last: i == len(found)-1, phase: Idle}
			switch phase := phases[l.Handle]; {
			case phase != "":
				at.phase = phase
			case l.Open:
				at.phase = Pending
			}
			now[place{path, int64(i)}] = at
		}
	}
	return now, nil
}

// role is what a server is at a chunk, empty if it is no member.
func (at chunkAt) role(server gfs.ServerID) string {
	switch i := slices.Index(at.members, server); {
	case i < 0:
		return ""
	case at.phase == Idle:
		return "replica of a closed chunk"
	case i == 0:
		return "primary, chain head"
	case i == len(at.members)-1:
		return "secondary, chain tail"
	}
	return "secondary, chain middle"
}

// source is whom a client reads a chunk from.
type source struct {
	reader *clientlib.Client
	handle gfs.ChunkHandle
}

// sources asks everybody who reads now from which server.
func (r *run) sources(ctx context.Context) map[source]gfs.ServerID {
	var mu sync.Mutex
	var all sync.WaitGroup
	from := map[source]gfs.ServerID{}
	for reader := range r.ops.readers() {
		for _, path := range paths {
			all.Go(func() {
				found, err := reader.Locations(ctx, path, 0, gfs.MaxFileBytes)
				if err != nil {
					return // nobody is counted then
				}
				mu.Lock()
				defer mu.Unlock()
				for _, l := range found {
					if len(l.Servers) > 0 {
						from[source{reader, l.Handle}] = l.Servers[0].ID
					}
				}
			})
		}
	}
	all.Wait()
	return from
}
