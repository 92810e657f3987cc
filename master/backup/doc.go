// Package backup is the format of a backup of the master's metadata: the pages of a checkpoint as one stream of bytes.
//
// It is pure: an Encoder turns pages into bytes, Read turns a reader's bytes into pages again. What the pages mean is for
// master/namespace to know.
//
// # Format
//
// Numbers are little-endian, every byte is under a CRC32C:
//
//	bytes  part
//	12     magic "CAIRNBACKUP\n"
//	4      format, 1
//	4      length of the description
//	...    description: lines of text: cluster, master, index of the operation log, epoch, unix nanoseconds
//	4      CRC32C of all before
//
//	for each page, in ascending order of the keys:
//	2      length of the key, 1 to MaxKeyBytes
//	4      length of the value, at most MaxValueBytes
//	...    key, value
//	4      CRC32C of the page before it here
//
//	2      0: the end
//	8      number of pages
//	4      CRC32C over the pages' checksums, in order
//	4      CRC32C of these 14 bytes
//
// Nothing follows. A stream that breaks off has no end and is refused, as is one of a newer format.
package backup
