// Package namespace is the master's replicated state as one deterministic machine: the tree of directories and
// files, the table of chunks, the trash and the client sessions.
//
// # What it is
//
// State.Apply takes the records of the operation log one by one and decides what each does; a record is a command,
// not an effect. Equal records in equal order make equal states and equal outcomes on every master: there is no
// clock (time is in the record, and never runs backwards), no randomness, no goroutine, no lock and no I/O here.
// State.View is a picture of the state in constant time, which any goroutine may read while the State moves on;
// reads, sweeps and checkpoints work on views.
//
// # State and invariants
//
// Everything but the chunk table lies in one copy-on-write B+tree (tree.go) of immutable, front-coded leaf pages
// (page.go) under keys of several kinds (keys.go):
//
//   - a directory entry leads from (directory, name) to the id of a file or directory; an inode leads from the id
//     to attributes and, for a file, to its chunks as runs of handles. So an id survives renames, and a rename or a
//     removal of a whole tree changes one entry.
//   - every inode but the root's has exactly one of: a directory entry, a place in the trash, a place in the queue
//     of what is being dropped.
//   - a chunk that lost what was not synced has an entry that says before which version that was.
//   - a session remembers the outcomes of its latest mutations, so that a retry gets the first one.
//
// The chunk table (chunktable.go) is a paged array by handle: version, number of members, open, length, references.
// A handle is placed once, by the master whose epoch reserved it; without a reference no version of it is logged.
// Who the members of a chunk are is not part of the state: chunkservers tell. View.Verify checks all of this.
//
// # Permissions
//
// As POSIX has them: read, write and execute bits for owner, group and others; execute to pass through the
// directories of a path, write and execute on a directory to change its names. The user "root" is asked for no
// permission, nor is the user without a name, who is everybody until there are credentials. What is made belongs to
// its maker and the first of the maker's groups. A recursive removal asks for the permissions of the topmost
// directory alone. An id of a file is checked against the file's own bits, as an open descriptor would be.
//
// # Removal
//
// What is removed waits in the trash, under its old path, until a DropTrash record ends its retention; a file that
// is replaced, or removed past the trash, goes at once. Work that grows with what is dropped (children, chunks) is
// done in slices: at most 64 steps in the record that removes, the rest in DropTrash records, each at most as large
// as its limit. Until then files below a directory that is being dropped can still be reached by id.
//
// # What is durable, and what it does not do
//
// Nothing here is durable by itself: the operation log and its checkpoints are. View.Pages writes a checkpoint and
// Load reads one; equal states make equal pages, and every byte of a page is checked. The package does not choose
// servers, grant leases, know who is alive or say what time it is.
package namespace
