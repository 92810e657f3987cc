package namespace

import (
	"strings"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// The operations on paths. Each checks everything first and then changes everything: an error leaves no trace.

// operate runs the operation of a mutation for whoever asked.
func (s *State) operate(m *pb.NamespaceMutation) (*pb.FileStatus, error) {
	c, err := newCaller(m.GetIdentity())
	if err != nil {
		return nil, err
	}
	switch op := m.GetOperation().(type) {
	case *pb.NamespaceMutation_CreateFile:
		return s.createFile(c, op.CreateFile)
	case *pb.NamespaceMutation_MakeDirectory:
		return s.makeDirectory(c, op.MakeDirectory)
	case *pb.NamespaceMutation_Remove:
		return s.removePath(c, op.Remove)
	case *pb.NamespaceMutation_Rename:
		return s.rename(c, op.Rename)
	case *pb.NamespaceMutation_SetAttributes:
		return s.setAttributes(c, op.SetAttributes)
	case *pb.NamespaceMutation_Undelete:
		return s.undelete(c, op.Undelete)
	case *pb.NamespaceMutation_Truncate:
		return s.truncate(c, op.Truncate)
	}
	return nil, gfs.Errorf(gfs.CodeInvalid, "unknown operation %T: upgrade this master", m.GetOperation())
}

// createFile makes a file, opens the one that exists, or puts a new one in its place.
func (s *State) createFile(c caller, r *pb.CreateFile) (*pb.FileStatus, error) {
	replicas, err := checkReplicas(r.GetReplicas())
	if err != nil {
		return nil, err
	}
	if err := checkMode(r.GetMode()); err != nil {
		return nil, err
	}
	if r.GetExclusive() && r.GetReplace() {
		return nil, gfs.Errorf(gfs.CodeInvalid, "create %.200q both exclusively and to replace: choose one", r.GetPath())
	}
	t, err := s.walk(c, r.GetPath())
	if err != nil {
		return nil, err
	}
	made := inode{mode: r.GetMode(), owner: c.user, group: c.group(), replicas: replicas, synced: r.GetSynced(), modified: s.clock}
	switch {
	case !t.existing:
		if err := t.writable(c); err != nil {
			return nil, err
		}
	case r.GetExclusive():
		return nil, gfs.Errorf(gfs.CodeExist, "%s exists: remove it or choose another name", t.path)
	case t.inode.directory:
		return nil, gfs.Errorf(gfs.CodeIsDirectory, "%s is a directory: choose the name of a file", t.path)
	case !r.GetReplace():
		return s.statusOf(&t), nil
	case !c.may(&t.inode, mayWrite):
		return nil, denied(c, "replace", t.path)
	default:
		s.discard(t.id, &t.inode)
		made.mode, made.owner, made.group, made.replicas = t.inode.mode, t.inode.owner, t.inode.group, t.inode.replicas
		made.synced = made.synced || t.inode.synced
	}
	t.id, t.inode = s.newID(), made
	s.putInode(t.id, &t.inode)
	s.counts.Files++
	s.link(&t)
	return s.statusOf(&t), nil
}

// makeDirectory makes a directory, and those above it if asked to.
func (s *State) makeDirectory(c caller, r *pb.MakeDirectory) (*pb.FileStatus, error) {
	if err := checkMode(r.GetMode()); err != nil {
		return nil, err
	}
	clean, err := gfs.CleanPath(r.GetPath())
	if err != nil {
		return nil, err
	}
	t, missing, err := s.deepest(c, clean, r.GetParents())
	if err != nil {
		return nil, err
	}
	if t.existing {
		switch {
		case !r.GetParents():
			return nil, gfs.Errorf(gfs.CodeExist, "%s exists: remove it or choose another name", t.path)
		case !t.inode.directory:
			return nil, gfs.Errorf(gfs.CodeNotDirectory, "%s is a file: remove it or choose another name", t.path)
		}
		return s.statusOf(&t), nil
	}
	if err := t.writable(c); err != nil {
		return nil, err
	}
	for {
		t.id = s.newID()
		t.inode = inode{directory: true, mode: r.GetMode(), owner: c.user, group: c.group(), modified: s.clock}
		s.putInode(t.id, &t.inode)
		s.counts.Directories++
		s.link(&t)
		if len(missing) == 0 {
			return s.statusOf(&t), nil
		}
		t.parent, t.holder, t.name = t.id, t.inode, missing[0]
		missing = missing[1:]
	}
}

// deepest follows a path. If parents is set and directories are missing, it returns the place of the topmost one
// and the names below.
func (s *State) deepest(c caller, clean string, parents bool) (target, []string, error) {
	t, err := s.walk(c, clean)
	if !parents || gfs.CodeOf(err) != gfs.CodeNotExist {
		return t, nil, err
	}
	for end := 0; ; {
		next := strings.IndexByte(clean[end+1:], '/')
		if next < 0 { // cannot be: then walk would have found the parent
			return t, nil, err
		}
		end += 1 + next
		if t, err := s.walk(c, clean[:end]); err != nil || !t.existing {
			return t, strings.Split(clean[end+1:], "/"), err
		}
	}
}

// rename moves a file or a directory with all that is in it, in place of what is there.
func (s *State) rename(c caller, r *pb.Rename) (*pb.FileStatus, error) {
	from, err := s.must(c, r.GetFrom())
	if err != nil {
		return nil, err
	}
	to, err := gfs.CleanPath(r.GetTo())
	switch {
	case err != nil:
		return nil, err
	case from.path == "/" || to == "/":
		return nil, gfs.Errorf(gfs.CodeInvalid, "the root directory cannot be renamed or replaced: rename what is in it")
	case from.inode.directory && strings.HasPrefix(to, from.path+"/"):
		return nil, gfs.Errorf(gfs.CodeInvalid, "%s lies in %s: a directory cannot move into itself", to, from.path)
	}
	t, err := s.walk(c, to)
	if err != nil {
		return nil, err
	}
	if from.path == to {
		return s.statusOf(&from), nil
	}
	if err := s.mayRename(c, &from, &t); err != nil {
		return nil, err
	}
	if t.existing {
		s.discard(t.id, &t.inode)
	}
	s.unlink(&from)
	t.id, t.inode = from.id, from.inode
	s.link(&t)
	return s.statusOf(&t), nil
}

// mayRename checks permissions, and that what is in the way may be replaced.
func (s *State) mayRename(c caller, from, to *target) error {
	if err := from.writable(c); err != nil {
		return err
	}
	if err := to.writable(c); err != nil {
		return err
	}
	if from.inode.directory && from.parent != to.parent && !c.may(&from.inode, mayWrite) {
		return denied(c, "move", from.path)
	}
	switch {
	case !to.existing:
	case to.inode.directory && !from.inode.directory:
		return gfs.Errorf(gfs.CodeIsDirectory, "%s is a directory: a file does not replace it", to.path)
	case !to.inode.directory && from.inode.directory:
		return gfs.Errorf(gfs.CodeNotDirectory, "%s is a file: a directory does not replace it", to.path)
	case to.inode.directory && !s.isEmpty(to.id):
		return gfs.Errorf(gfs.CodeNotEmpty, "%s is not empty: remove what is in it first", to.path)
	}
	return nil
}

// setAttributes changes what is present. Only the superuser gives files away; an owner may choose among its own
// groups.
func (s *State) setAttributes(c caller, r *pb.SetAttributes) (*pb.FileStatus, error) {
	t, err := s.must(c, r.GetPath())
	if err != nil {
		return nil, err
	}
	if !c.owns(&t.inode) {
		return nil, gfs.Errorf(gfs.CodePermission, "user %q does not own %s: its owner %q can change it", c.user, t.path, t.inode.owner)
	}
	n := t.inode
	if r.Mode != nil {
		if err := checkMode(r.GetMode()); err != nil {
			return nil, err
		}
		n.mode = r.GetMode()
	}
	if r.Owner != nil {
		if err := checkOwner(r.GetOwner()); err != nil {
			return nil, err
		}
		if !c.super() && r.GetOwner() != n.owner {
			return nil, gfs.Errorf(gfs.CodePermission, "only root may give %s to user %q", t.path, r.GetOwner())
		}
		n.owner = r.GetOwner()
	}
	if r.Group != nil {
		if err := checkOwner(r.GetGroup()); err != nil {
			return nil, err
		}
		if !c.super() && r.GetGroup() != n.group && !c.in(r.GetGroup()) {
			return nil, gfs.Errorf(gfs.CodePermission, "user %q is not in group %q: choose one of its groups for %s", c.user, r.GetGroup(), t.path)
		}
		n.group = r.GetGroup()
	}
	if r.ModifiedUnixNano != nil {
		n.modified = r.GetModifiedUnixNano()
	}
	if r.Replicas != nil {
		if n.directory {
			return nil, gfs.Errorf(gfs.CodeIsDirectory, "%s is a directory: replicas are an attribute of files", t.path)
		}
		if n.replicas, err = checkReplicas(r.GetReplicas()); err != nil {
			return nil, err
		}
	}
	t.inode = n
	s.putInode(t.id, &t.inode)
	return s.statusOf(&t), nil
}

func (s *State) newID() gfs.FileID {
	id := s.nextFile
	s.nextFile++
	return id
}

// link gives the target's id its name. The holder's time becomes that of the record.
func (s *State) link(t *target) {
	s.put(direntKey(t.parent, t.name), packDirent(t.id, t.inode.directory))
	s.touchHolder(t)
}

// unlink takes the target's name away; its inode stays.
func (s *State) unlink(t *target) {
	s.remove(direntKey(t.parent, t.name))
	s.touchHolder(t)
}

func (s *State) touchHolder(t *target) {
	if t.holder.modified != s.clock {
		t.holder.modified = s.clock
		s.putInode(t.parent, &t.holder)
	}
}

func checkMode(mode uint32) error {
	if mode > maxMode {
		return gfs.Errorf(gfs.CodeInvalid, "mode %#o: want permission bits, 0 to 0777", mode)
	}
	return nil
}

// checkReplicas returns the number of replicas wanted; 0 asks for the default.
func checkReplicas(replicas uint32) (int, error) {
	switch {
	case replicas == 0:
		return gfs.DefaultReplicas, nil
	case replicas > gfs.MaxReplicas:
		return 0, gfs.Errorf(gfs.CodeInvalid, "%d replicas: want 1 to %d", replicas, gfs.MaxReplicas)
	}
	return int(replicas), nil
}
