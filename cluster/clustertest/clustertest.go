package clustertest

import (
	"context"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster"
)

// startPatience bounds a start and a stop on a slow machine.
const startPatience = 30 * time.Second

// Option changes what Start starts.
type Option func(*cluster.Config)

// WithChunkservers sets the number of chunkservers, 4 by default.
func WithChunkservers(n int) Option { return func(c *cluster.Config) { c.Chunkservers = n } }

// WithMasters sets the number of masters, 1, 3 or 5: 1 by default.
func WithMasters(n int) Option { return func(c *cluster.Config) { c.Masters = n } }

// WithCapacity bounds the bytes that each chunkserver holds; by default its disk does.
func WithCapacity(bytes int64) Option { return func(c *cluster.Config) { c.Capacity = bytes } }

// WithRacks spreads the chunkservers over n racks, 2 by default.
func WithRacks(n int) Option { return func(c *cluster.Config) { c.Racks = n } }

// WithDir keeps the data in dir, so that a later cluster can be started on it. The default is a directory that goes
// with the test.
func WithDir(dir string) Option { return func(c *cluster.Config) { c.Dir = dir } }

// WithReplicationDelay sets how long a chunkserver is missing before its replicas are replaced, a minute by default.
func WithReplicationDelay(d time.Duration) Option {
	return func(c *cluster.Config) { c.ReplicationDelay = d }
}

// WithLog sends the cluster's log to log; by default warnings and errors go to the test's log.
func WithLog(log *logrus.Entry) Option { return func(c *cluster.Config) { c.Log = log } }

// Cluster is a running cluster with what a test wants of it.
type Cluster struct {
	*cluster.Cluster
	t testing.TB
}

// Start starts a cluster, waits until it serves and stops it when the test ends.
func Start(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	cfg := cluster.Config{}
	for _, o := range opts {
		o(&cfg)
	}
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Log == nil {
		cfg.Log = testLog(t)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	c, err := cluster.Start(ctx, cfg)
	if err != nil {
		t.Fatalf("start a cluster: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("stop the cluster: %v", err)
		}
	})
	return &Cluster{Cluster: c, t: t}
}

// Client connects a client that is closed when the test ends.
func (c *Cluster) Client(opts ...clientlib.Option) *clientlib.Client {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	client, err := c.Connect(ctx, opts...)
	if err != nil {
		c.t.Fatalf("connect: %v", err)
	}
	c.t.Cleanup(func() { _ = client.Close() })
	return client
}

// testLog writes warnings and errors to the test's log.
func testLog(t testing.TB) *logrus.Entry {
	log := logrus.New()
	log.SetLevel(logrus.WarnLevel)
	log.SetOutput(t.Output())
	return logrus.NewEntry(log)
}
