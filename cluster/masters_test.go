package cluster_test

import (
	"testing"

	"github.com/cairnfs/cairn/cluster"
	"github.com/cairnfs/cairn/cluster/clustertest"
)

// Three masters in one process are a group: what they are told is there when they are started again, and one that is
// handed the lead goes on.
func TestThreeMasters(t *testing.T) {
	dir := t.TempDir()
	c := clustertest.Start(t, clustertest.WithMasters(3), clustertest.WithDir(dir))
	client := c.Client()
	if err := client.WriteFile(t.Context(), "/f", []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	acting := ""
	for _, m := range c.Masters() {
		if m.Acting() {
			acting = m.ID()
			if err := m.Log().Transfer(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	status, err := client.ActingMaster(t.Context())
	if err != nil || status.ID == acting || len(c.Masters()) != 3 {
		t.Errorf("master %s acts after %s handed over, %v", status.ID, acting, err)
	}
	if err := c.StopMaster(); err != nil {
		t.Fatal(err)
	}
	if err := c.StartMaster(t.Context()); err != nil {
		t.Fatal(err)
	}
	if data, err := client.ReadFile(t.Context(), "/f"); err != nil || string(data) != "hello" {
		t.Errorf("after a restart: %q, %v", data, err)
	}
	if _, err := cluster.Start(t.Context(), cluster.Config{Dir: t.TempDir(), Masters: 2}); err == nil {
		t.Error("two masters were started")
	}
}
