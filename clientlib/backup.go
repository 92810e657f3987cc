package clientlib

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// maxBackupPieces bounds a backup at 4 TiB, far beyond what a master's memory holds.
const maxBackupPieces = 1 << 23

// Backup writes a backup of the master's metadata to w: names, attributes, which chunks belong to which file. It is of
// one moment, while the cluster goes on. The files' contents are not in it: they are what the chunkservers hold. If
// another master takes over meanwhile the backup fails and has to be begun again; what was written then is no backup.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	request := &pb.BackupRequest{Backup: rand.Uint64() | 1}
	for ; request.Piece < maxBackupPieces; request.Piece++ {
		reply := &pb.BackupReply{}
		if err := c.ask(ctx, messages.OpBackup, request, reply); err != nil {
			return pathError("backup", "/", err)
		}
		if _, err := w.Write(reply.GetData()); err != nil {
			return fmt.Errorf("write the backup: %w", err)
		}
		if reply.GetLast() {
			return nil
		}
	}
	return pathError("backup", "/", gfs.Errorf(gfs.CodeInternal, "the backup has no end after %d pieces", maxBackupPieces))
}
