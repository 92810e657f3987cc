package namespace

import (
	"slices"
	"strings"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// maxMode is every permission bit there is.
const maxMode = 0o777

// maxGroups bounds the groups of an identity, as NGROUPS_MAX does on Linux.
const maxGroups = 65536

// Permission bits, for one of owner, group and others.
const (
	mayExecute = 1
	mayWrite   = 2
	mayRead    = 4
)

// caller is who asks.
type caller struct {
	user   string
	groups []string
}

func newCaller(id *pb.Identity) (caller, error) {
	if err := checkOwner(id.GetUser()); err != nil {
		return caller{}, err
	}
	if len(id.GetGroups()) > maxGroups {
		return caller{}, gfs.Errorf(gfs.CodeInvalid, "identity with %d groups: at most %d are allowed", len(id.GetGroups()), maxGroups)
	}
	if len(id.GetGroups()) > 0 {
		if err := checkOwner(id.GetGroups()[0]); err != nil {
			return caller{}, err
		}
	}
	return caller{id.GetUser(), id.GetGroups()}, nil
}

// checkOwner checks the name of a user or group; it may be empty.
func checkOwner(name string) error {
	if name == "" {
		return nil
	}
	return gfs.CheckName(name)
}

// super reports whether no permission is asked of the caller: the user root, and the user without a name, who is
// everybody until there are credentials.
func (c caller) super() bool { return c.user == "root" || c.user == "" }

// group is the group of what the caller makes.
func (c caller) group() string {
	if len(c.groups) == 0 {
		return ""
	}
	return c.groups[0]
}

// owns reports whether the caller may change the attributes of a file.
func (c caller) owns(n *inode) bool { return c.super() || c.user == n.owner }

// in reports whether the caller is in a group.
func (c caller) in(group string) bool { return slices.Contains(c.groups, group) }

// may reports whether the caller has all the wanted permissions, as POSIX decides: the bits of the first of
// owner, group and others that the caller belongs to.
func (c caller) may(n *inode, want uint32) bool {
	switch {
	case c.super():
		return true
	case c.user == n.owner:
		return n.mode>>6&want == want
	case c.in(n.group):
		return n.mode>>3&want == want
	}
	return n.mode&want == want
}

// target is where a path leads: the last directory, and what the last name is there, if anything.
type target struct {
	path     string // clean
	parent   gfs.FileID
	name     string // empty for the root, whose parent is itself
	id       gfs.FileID
	inode    inode // of id
	holder   inode // of parent
	existing bool  // id and inode are set
}

// walk follows a path. All but its last name must be directories that exist and that the caller may search.
func (m *image) walk(c caller, path string) (target, error) {
	clean, err := gfs.CleanPath(path)
	if err != nil {
		return target{}, err
	}
	root, err := m.inode(gfs.RootID)
	if err != nil {
		return target{}, err
	}
	t := target{path: clean, parent: gfs.RootID, id: gfs.RootID, inode: root, holder: root, existing: true}
	if clean == "/" {
		return t, nil
	}
	for start := 1; ; {
		end := strings.IndexByte(clean[start:], '/')
		last := end < 0
		if last {
			end = len(clean)
		} else {
			end += start
		}
		if !t.inode.directory {
			return target{}, gfs.Errorf(gfs.CodeNotDirectory, "%s is a file, so there is no %s", clean[:start-1], clean)
		}
		if !c.may(&t.inode, mayExecute) {
			return target{}, denied(c, "search", clean[:max(start-1, 1)])
		}
		t.parent, t.holder, t.name = t.id, t.inode, clean[start:end]
		t.id, t.existing, err = m.lookup(t.parent, t.name)
		if err != nil {
			return target{}, err
		}
		if t.existing {
			if t.inode, err = m.inode(t.id); err != nil {
				return target{}, err
			}
		}
		if last {
			return t, nil
		}
		if !t.existing {
			return target{}, gfs.Errorf(gfs.CodeNotExist, "%s: the directory %s does not exist", clean, clean[:end])
		}
		start = end + 1
	}
}

// must is walk to something that exists.
func (m *image) must(c caller, path string) (target, error) {
	t, err := m.walk(c, path)
	if err == nil && !t.existing {
		err = gfs.Errorf(gfs.CodeNotExist, "%s does not exist", t.path)
	}
	return t, err
}

// writable checks that the caller may add and remove names where the target is.
func (t *target) writable(c caller) error {
	if !c.may(&t.holder, mayWrite|mayExecute) {
		return denied(c, "change names in", dirOf(t.path))
	}
	return nil
}

func denied(c caller, what, path string) error {
	return gfs.Errorf(gfs.CodePermission, "user %q may not %s %s: ask its owner for the permission", c.user, what, path)
}

func dirOf(clean string) string { return clean[:max(strings.LastIndexByte(clean, '/'), 1)] }

func (m *image) lookup(parent gfs.FileID, name string) (gfs.FileID, bool, error) {
	value, ok := m.entries.get(direntKey(parent, name))
	if !ok {
		return 0, false, nil
	}
	id, _, ok := unpackDirent(value)
	if !ok {
		return 0, false, damaged("directory entry", parent)
	}
	return id, true, nil
}

// inode reads the attributes of an id that a directory names.
func (m *image) inode(id gfs.FileID) (inode, error) {
	n, found, err := m.findInode(id)
	if err == nil && !found {
		err = damaged("directory entry", id)
	}
	return n, err
}

// findInode reads the attributes of an id that may be gone.
func (m *image) findInode(id gfs.FileID) (inode, bool, error) {
	value, ok := m.entries.get(inodeKey(id))
	if !ok {
		return inode{}, false, nil
	}
	n, err := unpackInode(value, m.names)
	if err != nil {
		return inode{}, false, damaged("inode", id)
	}
	return n, true, nil
}

// isEmpty reports whether a directory holds nothing.
func (m *image) isEmpty(directory gfs.FileID) bool {
	for range m.entries.prefixed(direntKey(directory, "")) {
		return false
	}
	return true
}

// damaged reports what cannot be unless memory or the program is broken.
func damaged(what string, id gfs.FileID) error {
	return gfs.Errorf(gfs.CodeInternal, "damaged %s of file %d: stop this master and let it load another's checkpoint", what, id)
}

// status describes a file or directory under a name.
func (m *image) status(id gfs.FileID, name string, n *inode) *pb.FileStatus {
	s := &pb.FileStatus{
		FileId: uint64(id), Name: name, Directory: n.directory, Mode: n.mode, Owner: n.owner, Group: n.group,
		ModifiedUnixNano: n.modified, Replicas: uint32(n.replicas), Chunks: uint32(n.chunks()), Synced: n.synced,
	}
	if s.Chunks > 0 {
		last := m.table.get(n.last())
		s.Length = int64(s.Chunks-1)*gfs.ChunkSize + last.length()
		s.Open = last.open()
	}
	return s
}

func (m *image) statusOf(t *target) *pb.FileStatus {
	name := t.name
	if name == "" {
		name = "/"
	}
	return m.status(t.id, name, &t.inode)
}
