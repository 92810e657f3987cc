package oplog

import (
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/metadb"
)

// A standby drops the end of its log where the acting master's differs. What is before it can still be read after a
// restart.
func TestALogWhoseEndWasDroppedOpensAgain(t *testing.T) {
	dir := t.TempDir()
	const kept, count = 7, 10
	for _, first := range []uint64{1, kept + 1} { // the second time the log is there already
		meta := &metadb.BoltMetaDB{}
		w, err := openWAL(dir, meta, minSegmentBytes, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		for i := uint64(1); i < first; i++ {
			if err := w.GetLog(i, &raft.Log{}); err != nil {
				t.Errorf("entry %d after the restart: %v", i, err)
			}
		}
		for i := first; i <= count; i++ {
			if err := w.StoreLogs([]*raft.Log{{Index: i, Data: []byte("entry")}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.DeleteRange(kept+1, count); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := meta.Close(); err != nil {
			t.Error(err)
		}
	}
}
