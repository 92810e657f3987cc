package namespace

import (
	"bytes"
	"path"
	"slices"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// compare reads everything there is and compares it with the model.
func (m *machine) compare(t *rapid.T) {
	view := m.state.View()
	if err := view.Verify(); err != nil {
		t.Fatal(err)
	}
	listed := 1
	for p, o := range m.model.paths {
		name := path.Base(p)
		s, err := view.Stat(nil, p)
		if err != nil || !proto.Equal(s, o.status(name)) {
			t.Fatalf("stat %s: %v, %v instead of %v", p, s, err, o.status(name))
		}
		if !o.directory {
			continue
		}
		after := ""
		for more := true; more; {
			var entries []*pb.FileStatus
			if entries, more, err = view.List(nil, p, after, 2); err != nil {
				t.Fatalf("list %s: %v", p, err)
			}
			for _, e := range entries {
				if want := m.model.paths[path.Join(p, e.Name)]; want == nil || e.Name <= after || !proto.Equal(e, want.status(e.Name)) {
					t.Fatalf("list %s: %v after %q", p, e, after)
				}
				after = e.Name
				listed++
			}
		}
	}
	if listed != len(m.model.paths) {
		t.Fatalf("%d paths are listed, %d exist", listed, len(m.model.paths))
	}
	m.compareChunks(t, view)
}

func (m *machine) compareChunks(t *rapid.T, view *View) {
	counts := Counts{Sessions: len(m.sessions), Trash: len(m.model.trash)}
	open := map[gfs.ChunkHandle]bool{}
	for _, o := range m.model.objects() {
		if o.directory {
			counts.Directories++
			continue
		}
		counts.Files++
		counts.Chunks += len(o.chunks)
		first := rapid.IntRange(0, len(o.chunks)).Draw(t, "first")
		chunks, total, err := view.FileChunks(gfs.FileID(o.id), first, 1000)
		if err != nil || total != len(o.chunks) || len(chunks) != total-first {
			t.Fatalf("file %d: %d chunks of %d, %v", o.id, len(chunks), total, err)
		}
		for i, got := range chunks {
			c := o.chunks[first+i]
			want := Chunk{gfs.ChunkHandle(c.handle), gfs.Version(c.version), int(c.members), c.open, c.length, o.replicas, 1, gfs.FileID(o.id)}
			if again, ok := view.Chunk(got.Handle); got != want || again != want || !ok {
				t.Fatalf("chunk %+v instead of %+v", got, want)
			}
			if c.open {
				open[got.Handle] = true
			}
		}
	}
	if view.Counts() != counts {
		t.Fatalf("counts %+v instead of %+v", view.Counts(), counts)
	}
	for c := range view.OpenChunks(1) {
		if _, total, err := view.FileChunks(c.File, 0, 0); err != nil || total == 0 || !c.Open {
			t.Fatalf("open chunk %+v: %v", c, err)
		}
		delete(open, c.Handle)
	}
	for h := range open {
		if c, _ := view.Chunk(h); c.File != 0 {
			if first, _, _ := view.FileChunks(c.File, 0, 1); len(first) == 0 || h >= first[0].Handle {
				continue // not drawn above
			}
		}
		t.Fatalf("open chunk %s is not found", h)
	}
}

func pagesOf(t interface{ Fatal(...any) }, v *View) []Page {
	var pages []Page
	for p, err := range v.Pages() {
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, p)
	}
	return pages
}

func replay(pages []Page) func(func(Page, error) bool) {
	return func(yield func(Page, error) bool) {
		for _, p := range pages {
			if !yield(p, nil) {
				return
			}
		}
	}
}

func samePages(a, b []Page) bool {
	return slices.EqualFunc(a, b, func(a, b Page) bool { return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) })
}
