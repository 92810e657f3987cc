package cluster

import (
	"slices"

	"github.com/cairnfs/cairn/chunkserver"
	"github.com/cairnfs/cairn/master"
)

// Masters are the masters that run now.
func (c *Cluster) Masters() []*master.Master {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.masters)
}

// Chunkservers are the chunkservers that run now.
func (c *Cluster) Chunkservers() []*chunkserver.Chunkserver {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.chunkservers), func(cs *chunkserver.Chunkserver) bool { return cs == nil })
}
