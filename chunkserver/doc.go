// Package chunkserver stores replicas and orders their mutations.
package chunkserver
