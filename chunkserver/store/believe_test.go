package store

import (
	"bytes"
	"testing"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
)

// A suspect that is believed holds what was synced, and what its checksums vouch for behind that.
func TestBelieve(t *testing.T) {
	const synced, logged = 2*gfs.BlockSize + 2000, 2*gfs.BlockSize + 5000
	for name, at := range map[string]struct {
		flipped int64 // where the data differ from what was written, negative for nowhere
		length  int64 // that is left
		torn    []uint32
	}{
		"all of it was written back":          {-1, logged, nil},
		"the end was not":                     {synced + 1000, synced, []uint32{2}},
		"an overwrite of a synced block half": {100, logged, []uint32{0}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, Config{Dirs: []string{dir}, Boot: "one"})
			data := noise(1, logged)
			r := filled(t, s, 1, data[:synced])
			must(t, r.Sync())
			must(t, r.WriteAt(synced, data[synced:], nil))
			must(t, r.Advance(Progress{Length: logged, Commit: logged, Appends: []mutation.Append{
				appendOf(1, 1, 0, 500), appendOf(1, 2, synced, logged-synced),
			}}))
			path := s.dirs[0].chunkPath(1)
			must(t, s.Close())
			if at.flipped >= 0 {
				flip(t, path, at.flipped)
				data = bytes.Clone(data)
				data[at.flipped] ^= 1
			}
			s = openStore(t, Config{Dirs: []string{dir}, Boot: "two"})
			r, err := s.Get(1)
			must(t, err)
			must(t, r.Promise(v(2), v(1), false))
			torn, err := r.Believe()
			must(t, err)
			if len(torn) != len(at.torn) || len(torn) > 0 && torn[0] != at.torn[0] {
				t.Errorf("torn blocks %v, want %v", torn, at.torn)
			}
			status := r.Status()
			if status.State != gfs.ReplicaMember || status.Length != at.length || status.Active != v(1) {
				t.Fatalf("status %+v, want a member with %d bytes", status, at.length)
			}
			if bad, err := r.VerifyAll(); err != nil || len(bad) > 0 {
				t.Errorf("blocks %v do not match, %v", bad, err)
			}
			got, err := r.Block(make([]byte, gfs.BlockSize), 2)
			if err != nil || len(got) != int(at.length-2*gfs.BlockSize) || at.torn == nil && !bytes.Equal(got, data[2*gfs.BlockSize:at.length]) {
				t.Errorf("the last block has %d bytes, %v", len(got), err)
			}
			table, err := r.Table()
			must(t, err)
			if _, outcome := table.Lookup(1, 2); (outcome == mutation.Known) != (at.length == logged) {
				t.Errorf("the append behind the synced ones is %d", outcome)
			}
			if _, outcome := table.Lookup(1, 1); outcome != mutation.Known {
				t.Errorf("the append among the synced ones is %d", outcome)
			}
			// It is a member for good.
			must(t, s.Close())
			s = openStore(t, Config{Dirs: []string{dir}, Boot: "two"})
			if r, err = s.Get(1); err != nil || r.Status() != status {
				t.Errorf("after a restart %+v, %v, want %+v", r.Status(), err, status)
			}
		})
	}
}
