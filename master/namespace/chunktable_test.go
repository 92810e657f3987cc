package namespace

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/messages/gfs"
)

func TestChunkTableIsAMapOfHandles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type snapshot struct {
			table chunkTable
			model map[gfs.ChunkHandle]row
		}
		var table chunkTable
		model := map[gfs.ChunkHandle]row{}
		var snapshots []snapshot
		edit := uint64(1)
		handle := rapid.Custom(func(t *rapid.T) gfs.ChunkHandle {
			// A few pages, two of them in other directories.
			base := rapid.SampledFrom([]uint64{0, 0, rowsPerPage, rowsPerDirectory, 5 * rowsPerDirectory}).Draw(t, "base")
			return gfs.ChunkHandle(base + rapid.Uint64Range(1, 2*rowsPerPage).Draw(t, "handle"))
		})
		check := func(t *rapid.T, table *chunkTable, model map[gfs.ChunkHandle]row) {
			live := 0
			for h, r := range model {
				if got := table.get(h); got != r {
					t.Fatalf("row of %s is %+v, not %+v", h, got, r)
				}
				if r.live() {
					live++
				}
			}
			if table.live != live {
				t.Fatalf("%d live rows, not %d", table.live, live)
			}
			from := handle.Draw(t, "from")
			for _, open := range []bool{false, true} {
				var want, got []gfs.ChunkHandle
				for _, h := range slices.Sorted(maps.Keys(model)) {
					if r := model[h]; h >= from && r.live() && (r.open() || !open) {
						want = append(want, h)
					}
				}
				for h, r := range table.from(from, open) {
					if got = append(got, h); r != model[h] {
						t.Fatalf("row of %s is %+v, not %+v", h, r, model[h])
					}
				}
				if !slices.Equal(got, want) {
					t.Fatalf("from %s on, open %t: %v instead of %v", from, open, got, want)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				h := handle.Draw(t, "handle")
				r := newRow(gfs.Version(rapid.Uint64Range(1, 1<<40).Draw(t, "version")), 7, rapid.Int64Range(0, gfs.ChunkSize).Draw(t, "length"),
					rapid.IntRange(1, 15).Draw(t, "members"), rapid.Bool().Draw(t, "open"), rapid.IntRange(1, 3).Draw(t, "references"))
				table.set(edit, h, r)
				model[h] = r
			},
			"fill": func(t *rapid.T) {
				first := gfs.ChunkHandle(rapid.SampledFrom([]uint64{1, rowsPerPage + 1}).Draw(t, "page"))
				r := row{version: goneVersion}
				if rapid.Bool().Draw(t, "live") {
					r = newRow(5, 6, 7, 3, false, 1)
				}
				for h := first; h < first+rowsPerPage; h++ {
					table.set(edit, h, r)
					model[h] = r
				}
			},
			"drop": func(t *rapid.T) {
				h := handle.Draw(t, "handle")
				table.set(edit, h, row{version: goneVersion})
				model[h] = row{version: goneVersion}
			},
			"forget": func(t *rapid.T) {
				h := handle.Draw(t, "handle")
				table.forgetBefore(edit, h)
				end := (h-1)/rowsPerPage*rowsPerPage + 1
				maps.DeleteFunc(model, func(g gfs.ChunkHandle, r row) bool { return g < end && !r.live() })
			},
			"snapshot": func(t *rapid.T) {
				edit++
				snapshots = append(snapshots, snapshot{table, maps.Clone(model)})
			},
			"check": func(t *rapid.T) { check(t, &table, model) },
		})
		check(t, &table, model)
		for _, s := range snapshots {
			check(t, &s.table, s.model)
		}
	})
}

func TestRowsHoldTheirBounds(t *testing.T) {
	for _, length := range []int64{0, 1, gfs.ChunkSize - 1, gfs.ChunkSize} {
		for _, members := range []int{1, gfs.MaxReplicas, memberMask} {
			for _, open := range []bool{false, true} {
				r := newRow(1, 2, length, members, open, 3)
				if r.length() != length || r.members() != members || r.open() != open || !r.live() {
					t.Errorf("%d bytes, %d members, open %t become %+v", length, members, open, r)
				}
			}
		}
	}
}
