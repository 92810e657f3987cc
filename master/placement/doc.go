// Package placement decides where replicas go.
//
// It is pure: the chunkservers, the random source and what to avoid are arguments, servers in an order are the
// result. It holds no state; the caller counts recent creations and tells them with each server.
//
// Choose picks the servers of a new chunk: those that are up and have room, of below-average disk use before the
// rest, on racks that have no replica yet, with few recent creations. Chain puts the members of a configuration in
// the order in which data travel: from the primary to the nearest, from there to the nearest of those left.
//
// What it does not do: it moves nothing, and fewer racks than replicas are no error, since a small cluster has one.
//
// Source: GFS 3.2, 4.2
package placement
