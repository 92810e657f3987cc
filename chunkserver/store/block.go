package store

import "github.com/cairnfs/cairn/messages/gfs"

// Block copies a block's bytes below the length, committed or not, into p, which has room for gfs.BlockSize bytes,
// and checks them. It returns what the block holds: for a primary that brings a member up to date, never for readers.
// CodeCorrupt when the bytes do not match their CRC, CodeInvalid for a block beyond the length.
func (r *Replica) Block(p []byte, block uint32) ([]byte, error) {
	c, err := r.acquire()
	if err != nil {
		return nil, err
	}
	defer c.release()
	if block >= gfs.BlocksPerChunk {
		return nil, gfs.Errorf(gfs.CodeInvalid, "block %d of chunk %s", block, r.handle)
	}
	n, err := r.loadBlock(c, p[:gfs.BlockSize], int(block))
	if err == nil && n == 0 {
		err = gfs.Errorf(gfs.CodeInvalid, "block %d of chunk %s lies beyond its length", block, r.handle)
	}
	return p[:n], err
}
