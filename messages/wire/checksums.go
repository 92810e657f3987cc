package wire

import "github.com/cairnfs/cairn/messages/gfs"

// Parts is how many parts a payload of length bytes has that begins at offset and is cut at block boundaries. For a
// record append, whose offset nobody knows yet, the offset is 0.
func Parts(offset, length int64) int {
	if length <= 0 {
		return 0
	}
	first, last := offset/gfs.BlockSize, (offset+length-1)/gfs.BlockSize
	return int(last-first) + 1
}

// AppendChecksums appends the CRC32C of each part of data, cut at the block boundaries of a chunk in which data
// begins at offset.
func AppendChecksums(sums []uint32, offset int64, data []byte) []uint32 {
	for len(data) > 0 {
		n := min(len(data), gfs.BlockSize-int(offset%gfs.BlockSize))
		sums = append(sums, Checksum(data[:n]))
		offset, data = offset+int64(n), data[n:]
	}
	return sums
}

// Verify reports whether sums are the checksums that AppendChecksums makes of data at offset. The error is
// gfs.CodeCorrupt and names the part.
func Verify(sums []uint32, offset int64, data []byte) error {
	if want := Parts(offset, int64(len(data))); len(sums) != want {
		return gfs.Errorf(gfs.CodeInvalid, "%d checksums for a payload of %d bytes at offset %d, want %d", len(sums), len(data), offset, want)
	}
	for i := 0; len(data) > 0; i++ {
		n := min(len(data), gfs.BlockSize-int(offset%gfs.BlockSize))
		if got := Checksum(data[:n]); got != sums[i] {
			return gfs.Errorf(gfs.CodeCorrupt, "block %d at offset %d: checksum %08x, computed %08x", i, offset, sums[i], got)
		}
		offset, data = offset+int64(n), data[n:]
	}
	return nil
}
