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

// What is left of a suspect ends where a piece ended, though the block that does not match is not the last: half a record
// must never be seen.
func TestBelieveLeavesNoHalfRecord(t *testing.T) {
	const synced, second, third = 1000, 1000 + gfs.BlockSize + 500, 4*gfs.BlockSize + 77
	for name, at := range map[string]struct {
		flipped, length int64
	}{
		"in the last block":        {4*gfs.BlockSize + 10, second},
		"in a block of the third":  {2*gfs.BlockSize + 5, second},
		"where the third begins":   {second + 20, synced},
		"where the second ends":    {second - 20, synced},
		"where the second begins":  {synced + 1, synced},
		"behind a whole first one": {gfs.BlockSize + 1, synced},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, Config{Dirs: []string{dir}, Boot: "one"})
			data := noise(1, third)
			r := filled(t, s, 1, data[:synced])
			must(t, r.Sync())
			for i, end := range []int64{second, third} {
				begin := r.Status().Length
				must(t, r.WriteAt(begin, data[begin:end], nil))
				must(t, r.Advance(Progress{Length: end, Appends: []mutation.Append{appendOf(1, uint64(i+2), begin, end-begin)}}))
			}
			path := s.dirs[0].chunkPath(1)
			must(t, s.Close())
			flip(t, path, at.flipped)
			s = openStore(t, Config{Dirs: []string{dir}, Boot: "two"})
			r, err := s.Get(1)
			must(t, err)
			must(t, r.Promise(v(2), v(1), false))
			_, err = r.Believe()
			must(t, err)
			if got := r.Status().Length; got != at.length {
				t.Fatalf("%d bytes are left, want %d", got, at.length)
			}
			if bad, err := r.VerifyAll(); err != nil || len(bad) > 0 {
				t.Errorf("blocks %v do not match, %v", bad, err)
			}
			for block := range blockCount(at.length) {
				got, err := r.Block(make([]byte, gfs.BlockSize), uint32(block))
				must(t, err)
				if from := block * gfs.BlockSize; !bytes.Equal(got, data[from:from+len(got)]) {
					t.Errorf("block %d differs from what was written", block)
				}
			}
		})
	}
}
