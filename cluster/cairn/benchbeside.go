package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/cairnfs/cairn/cluster/bench"
	"github.com/cairnfs/cairn/cluster/bench/limits"
)

// beside is what runs on this machine beside the cases of a cluster: their raw limits, and the writing that warms its
// memory.
type beside struct {
	dir    string // "" if nothing needs one
	warm   int64
	failed error // why a limit could not be made
	before func(context.Context) error
}

// limitKey tells limits apart: cases that are held against the same one share it.
type limitKey struct {
	kind bench.Limit
	n    int
}

// beside makes what the flags ask for and gives the cases of cfg their limits. The caller calls remove.
func (f *benchFlags) beside(cfg *bench.Config) (*beside, error) {
	b := &beside{warm: int64(f.warm)}
	if !f.limits && f.warm == 0 {
		return b, nil
	}
	binary, err := ownBinary()
	if err != nil {
		return nil, err
	}
	if b.dir, err = os.MkdirTemp(f.dir, "cairn-bench-"); err != nil {
		return nil, fmt.Errorf("a directory for the files: %w", err)
	}
	if f.warm > 0 {
		b.before = b.warmUp
	}
	if f.limits {
		made := map[limitKey]*bench.Case{}
		cfg.Limit = func(kind bench.Limit, n int) *bench.Case {
			key := limitKey{kind, n}
			if made[key] == nil {
				made[key] = b.limit(key, []string{binary, "bench", limitsRole}, cfg)
			}
			return made[key]
		}
	}
	return b, nil
}

// limit makes the limit of key with a directory of its own; nil with failed set if it cannot.
func (b *beside) limit(key limitKey, command []string, cfg *bench.Config) *bench.Case {
	config := limits.Config{
		Command: command, Dir: filepath.Join(b.dir, fmt.Sprintf("%s-%d", key.kind, key.n)), Bytes: cfg.Bytes, Ops: cfg.Ops, Streams: 1, Seed: cfg.Seed,
	}
	atOnce := 1
	switch key.kind {
	case bench.LimitChain, bench.LimitRead:
		config.Streams = key.n
	default:
		atOnce = key.n
	}
	c, err := limits.Of(key.kind, atOnce, config)
	if err == nil {
		err = os.Mkdir(config.Dir, 0o700)
	}
	if err != nil {
		b.failed = errors.Join(b.failed, fmt.Errorf("the limit %s: %w", key.kind, err))
		return nil
	}
	return &c
}

// warmUp writes and removes a file.
func (b *beside) warmUp(ctx context.Context) error {
	f, err := os.CreateTemp(b.dir, "warm-")
	if err != nil {
		return err
	}
	piece := make([]byte, 1<<20)
	for i := range piece {
		piece[i] = byte(rand.Uint32())
	}
	for done := int64(0); done < b.warm && err == nil; done += int64(len(piece)) {
		if err = ctx.Err(); err == nil {
			_, err = f.Write(piece)
		}
	}
	if err = errors.Join(err, f.Close(), os.Remove(f.Name())); err != nil && ctx.Err() == nil {
		return fmt.Errorf("warm the memory: %w: ask for less with --warm, or another --dir", err)
	}
	return err
}

func (b *beside) remove() error {
	if b.dir == "" {
		return nil
	}
	return os.RemoveAll(b.dir)
}
