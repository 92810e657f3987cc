package namespace

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// model is the namespace as a plain map of paths: no ids, no sharing, every operation rewrites what it must.
type model struct {
	paths map[string]*object
	trash []removal // oldest first
	now   int64
}

type object struct {
	id                uint64
	directory, synced bool
	mode              uint32
	owner, group      string
	modified          int64
	replicas          int
	chunks            []modelChunk
}

type modelChunk struct {
	handle, version uint64
	members         uint32
	length          int64
	open            bool
}

type removal struct {
	path string
	when int64
	tree map[string]*object // by what follows path
}

func newModel() *model {
	return &model{paths: map[string]*object{"/": {id: 1, directory: true, mode: 0o777}}}
}

func permits(id *pb.Identity, o *object, bits uint32) bool {
	if id.User == "" || id.User == "root" {
		return true
	}
	shift := 0
	if id.User == o.owner {
		shift = 6
	} else if slices.Contains(id.Groups, o.group) {
		shift = 3
	}
	return o.mode>>shift&bits == bits
}

// way checks the directories above a clean path.
func (m *model) way(id *pb.Identity, p string) gfs.Code {
	if p == "/" {
		return gfs.CodeNone
	}
	above := "/"
	for name := range strings.SplitSeq(p[1:], "/") {
		o := m.paths[above]
		switch {
		case o == nil:
			return gfs.CodeNotExist
		case !o.directory:
			return gfs.CodeNotDirectory
		case !permits(id, o, 1):
			return gfs.CodePermission
		}
		above = path.Join(above, name)
	}
	return gfs.CodeNone
}

func (m *model) exists(id *pb.Identity, p string) gfs.Code {
	if code := m.way(id, p); code != gfs.CodeNone {
		return code
	}
	if m.paths[p] == nil {
		return gfs.CodeNotExist
	}
	return gfs.CodeNone
}

func (m *model) mayChangeNames(id *pb.Identity, p string) bool {
	return permits(id, m.paths[path.Dir(p)], 3)
}

func (m *model) touch(p string) { m.paths[path.Dir(p)].modified = m.now }

// cut takes a path and all below it out of the map.
func (m *model) cut(p string) map[string]*object {
	tree := map[string]*object{}
	for q, o := range m.paths {
		if q == p || strings.HasPrefix(q, p+"/") {
			tree[q[len(p):]] = o
			delete(m.paths, q)
		}
	}
	return tree
}

func (m *model) paste(p string, tree map[string]*object) {
	for q, o := range tree {
		m.paths[p+q] = o
	}
}

func (m *model) empty(p string) bool {
	for q := range m.paths {
		if strings.HasPrefix(q, strings.TrimSuffix(p, "/")+"/") && q != "/" {
			return false
		}
	}
	return true
}

func (m *model) made(id *pb.Identity, mode uint32) *object {
	o := &object{mode: mode, owner: id.User, modified: m.now}
	if len(id.Groups) > 0 {
		o.group = id.Groups[0]
	}
	return o
}

// apply decides an operation: the code, and the object that the reply describes, if any.
func (m *model) apply(id *pb.Identity, mutation *pb.NamespaceMutation) (gfs.Code, *object) {
	switch op := mutation.Operation.(type) {
	case *pb.NamespaceMutation_CreateFile:
		return m.create(id, op.CreateFile)
	case *pb.NamespaceMutation_MakeDirectory:
		return m.mkdir(id, op.MakeDirectory)
	case *pb.NamespaceMutation_Remove:
		return m.remove(id, op.Remove)
	case *pb.NamespaceMutation_Rename:
		return m.rename(id, op.Rename)
	case *pb.NamespaceMutation_SetAttributes:
		return m.setAttributes(id, op.SetAttributes)
	case *pb.NamespaceMutation_Undelete:
		return m.undelete(id, op.Undelete.Path)
	}
	return gfs.CodeInvalid, nil
}

func (m *model) create(id *pb.Identity, r *pb.CreateFile) (gfs.Code, *object) {
	if r.Exclusive && r.Replace || r.Replicas > 8 || r.Mode > 0o777 {
		return gfs.CodeInvalid, nil
	}
	if code := m.way(id, r.Path); code != gfs.CodeNone {
		return code, nil
	}
	o := m.made(id, r.Mode)
	o.synced, o.replicas = r.Synced, int(r.Replicas)
	if o.replicas == 0 {
		o.replicas = 3
	}
	old := m.paths[r.Path]
	switch {
	case old == nil:
		if !m.mayChangeNames(id, r.Path) {
			return gfs.CodePermission, nil
		}
	case r.Exclusive:
		return gfs.CodeExist, nil
	case old.directory:
		return gfs.CodeIsDirectory, nil
	case !r.Replace:
		return gfs.CodeNone, old
	case !permits(id, old, 2):
		return gfs.CodePermission, nil
	default:
		o.mode, o.owner, o.group, o.replicas, o.synced = old.mode, old.owner, old.group, old.replicas, old.synced || r.Synced
	}
	m.paths[r.Path] = o
	m.touch(r.Path)
	return gfs.CodeNone, o
}

func (m *model) mkdir(id *pb.Identity, r *pb.MakeDirectory) (gfs.Code, *object) {
	if r.Mode > 0o777 {
		return gfs.CodeInvalid, nil
	}
	missing := []string{r.Path}
	for r.Parents && m.way(id, missing[0]) == gfs.CodeNotExist {
		missing = slices.Insert(missing, 0, path.Dir(missing[0]))
	}
	if code := m.way(id, missing[0]); code != gfs.CodeNone {
		return code, nil
	}
	if old := m.paths[missing[0]]; old != nil {
		switch {
		case !r.Parents:
			return gfs.CodeExist, nil
		case !old.directory:
			return gfs.CodeNotDirectory, nil
		}
		return gfs.CodeNone, old
	}
	if !m.mayChangeNames(id, missing[0]) {
		return gfs.CodePermission, nil
	}
	var o *object
	for _, p := range missing {
		o = m.made(id, r.Mode)
		o.directory = true
		m.paths[p] = o
		m.touch(p)
	}
	return gfs.CodeNone, o
}

func (m *model) remove(id *pb.Identity, r *pb.Remove) (gfs.Code, *object) {
	code := m.exists(id, r.Path)
	if code == gfs.CodeNotExist && r.Recursive {
		return gfs.CodeNone, nil
	}
	if code != gfs.CodeNone {
		return code, nil
	}
	o := m.paths[r.Path]
	switch {
	case r.Path == "/":
		return gfs.CodeInvalid, nil
	case !m.mayChangeNames(id, r.Path):
		return gfs.CodePermission, nil
	case !m.empty(r.Path) && !r.Recursive:
		return gfs.CodeNotEmpty, nil
	case !m.empty(r.Path) && !permits(id, o, 3):
		return gfs.CodePermission, nil
	}
	tree := m.cut(r.Path)
	m.touch(r.Path)
	if !r.Now {
		m.trash = append(m.trash, removal{r.Path, m.now, tree})
	}
	return gfs.CodeNone, o
}

func (m *model) rename(id *pb.Identity, r *pb.Rename) (gfs.Code, *object) {
	if code := m.exists(id, r.From); code != gfs.CodeNone {
		return code, nil
	}
	o := m.paths[r.From]
	if r.From == "/" || r.To == "/" || o.directory && strings.HasPrefix(r.To, r.From+"/") {
		return gfs.CodeInvalid, nil
	}
	if code := m.way(id, r.To); code != gfs.CodeNone {
		return code, nil
	}
	if r.From == r.To {
		return gfs.CodeNone, o
	}
	if !m.mayChangeNames(id, r.From) || !m.mayChangeNames(id, r.To) ||
		o.directory && path.Dir(r.From) != path.Dir(r.To) && !permits(id, o, 2) {
		return gfs.CodePermission, nil
	}
	if old := m.paths[r.To]; old != nil {
		switch {
		case old.directory && !o.directory:
			return gfs.CodeIsDirectory, nil
		case !old.directory && o.directory:
			return gfs.CodeNotDirectory, nil
		case !m.empty(r.To):
			return gfs.CodeNotEmpty, nil
		}
		m.cut(r.To)
	}
	m.touch(r.From)
	m.touch(r.To)
	m.paste(r.To, m.cut(r.From))
	return gfs.CodeNone, o
}

func (m *model) setAttributes(id *pb.Identity, r *pb.SetAttributes) (gfs.Code, *object) {
	if code := m.exists(id, r.Path); code != gfs.CodeNone {
		return code, nil
	}
	o := m.paths[r.Path]
	super := id.User == "" || id.User == "root"
	n := *o
	switch {
	case !super && id.User != o.owner:
		return gfs.CodePermission, nil
	case r.Mode != nil && *r.Mode > 0o777:
		return gfs.CodeInvalid, nil
	case r.Owner != nil && !super && *r.Owner != o.owner:
		return gfs.CodePermission, nil
	case r.Group != nil && !super && *r.Group != o.group && !slices.Contains(id.Groups, *r.Group):
		return gfs.CodePermission, nil
	case r.Replicas != nil && o.directory:
		return gfs.CodeIsDirectory, nil
	case r.Replicas != nil && *r.Replicas > 8:
		return gfs.CodeInvalid, nil
	}
	if r.Mode != nil {
		n.mode = *r.Mode
	}
	if r.Owner != nil {
		n.owner = *r.Owner
	}
	if r.Group != nil {
		n.group = *r.Group
	}
	if r.ModifiedUnixNano != nil {
		n.modified = *r.ModifiedUnixNano
	}
	if r.Replicas != nil {
		if n.replicas = int(*r.Replicas); n.replicas == 0 {
			n.replicas = 3
		}
	}
	*o = n
	return gfs.CodeNone, o
}

func (m *model) undelete(id *pb.Identity, p string) (gfs.Code, *object) {
	if code := m.way(id, p); code != gfs.CodeNone {
		return code, nil
	}
	if m.paths[p] != nil {
		return gfs.CodeExist, nil
	}
	newest := -1
	for i, r := range m.trash { // of equally old ones the file made last
		if r.path == p && (newest < 0 || r.when > m.trash[newest].when || r.when == m.trash[newest].when && r.tree[""].id > m.trash[newest].tree[""].id) {
			newest = i
		}
	}
	if newest < 0 {
		return gfs.CodeNotExist, nil
	}
	if !m.mayChangeNames(id, p) {
		return gfs.CodePermission, nil
	}
	r := m.trash[newest]
	m.trash = slices.Delete(m.trash, newest, newest+1)
	m.paste(p, r.tree)
	m.touch(p)
	return gfs.CodeNone, r.tree[""]
}

// dropTrash forgets removals before a time and returns the handles that go with them.
func (m *model) dropTrash(before int64) []gfs.ChunkHandle {
	var dropped []gfs.ChunkHandle
	kept := m.trash[:0]
	for _, r := range m.trash {
		if r.when >= before {
			kept = append(kept, r)
			continue
		}
		for _, o := range r.tree {
			for _, c := range o.chunks {
				dropped = append(dropped, gfs.ChunkHandle(c.handle))
			}
		}
	}
	m.trash = kept
	slices.Sort(dropped)
	return dropped
}

// objects are all that is not dropped, in paths and in the trash.
func (m *model) objects() []*object {
	all := slices.Collect(maps.Values(m.paths))
	for _, r := range m.trash {
		all = append(all, slices.Collect(maps.Values(r.tree))...)
	}
	slices.SortFunc(all, func(a, b *object) int { return int(a.id) - int(b.id) })
	return all
}

func (o *object) status(name string) *pb.FileStatus {
	s := &pb.FileStatus{FileId: o.id, Name: name, Directory: o.directory, Mode: o.mode, Owner: o.owner, Group: o.group,
		ModifiedUnixNano: o.modified, Replicas: uint32(o.replicas), Chunks: uint32(len(o.chunks)), Synced: o.synced}
	for i, c := range o.chunks {
		if i < len(o.chunks)-1 {
			s.Length += gfs.ChunkSize
		} else {
			s.Length += c.length
			s.Open = c.open
		}
	}
	return s
}
