// Package oplog is the operation log.
package oplog
