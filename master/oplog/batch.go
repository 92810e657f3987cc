package oplog

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Layout of a batch, the data of one Raft log entry. The table is in doc.go.
const (
	batchMagic       = "CLB"
	batchFormat      = 1
	batchHeaderBytes = 12
	batchCRCOffset   = 4
	batchCountOffset = 8
)

// Bounds of a batch.
const (
	// MaxBatchBytes bounds the data of one log entry, so that an entry is written, sent and applied in one piece
	// without holding up the ones behind it. Half a NATS payload, as inventory pages.
	MaxBatchBytes = 512 << 10
	// MaxBatchRecords bounds the records in one log entry: it bounds what a single turn of the machine applies.
	MaxBatchRecords = 4096
	// MaxRecordBytes is the longest record: one that fills a batch alone.
	MaxRecordBytes = MaxBatchBytes - batchHeaderBytes - binary.MaxVarintLen32
)

// castagnoli makes the table of CRC32C; the standard library keeps one copy of it.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// recordBytes is what a record of n bytes takes in a batch at most.
func recordBytes(n int) int { return n + binary.MaxVarintLen32 }

// encodeBatch lays records out as one log entry. The result shares no memory with them.
func encodeBatch(records [][]byte) []byte {
	size := batchHeaderBytes
	for _, record := range records {
		size += recordBytes(len(record))
	}
	data := make([]byte, batchHeaderBytes, size)
	copy(data, batchMagic)
	data[len(batchMagic)] = batchFormat
	binary.LittleEndian.PutUint32(data[batchCountOffset:], uint32(len(records)))
	for _, record := range records {
		data = binary.AppendUvarint(data, uint64(len(record)))
		data = append(data, record...)
	}
	binary.LittleEndian.PutUint32(data[batchCRCOffset:], batchCRC(data))
	return data
}

// batchCRC is the CRC32C of a whole batch but for the four bytes that hold it.
func batchCRC(data []byte) uint32 {
	sum := crc32.Checksum(data[:batchCRCOffset], castagnoli())
	return crc32.Update(sum, castagnoli(), data[batchCountOffset:])
}

// decodeBatch takes a log entry apart. The records share memory with data. Every error is gfs.CodeCorrupt, but for
// a newer format, which is gfs.CodeInvalid.
func decodeBatch(data []byte) ([][]byte, error) {
	switch {
	case len(data) < batchHeaderBytes:
		return nil, gfs.Errorf(gfs.CodeCorrupt, "batch of %d bytes: shorter than its header of %d", len(data), batchHeaderBytes)
	case len(data) > MaxBatchBytes:
		return nil, gfs.Errorf(gfs.CodeCorrupt, "batch of %d bytes: at most %d are written", len(data), MaxBatchBytes)
	case string(data[:len(batchMagic)]) != batchMagic:
		return nil, gfs.Errorf(gfs.CodeCorrupt, "batch begins with %x instead of %q", data[:len(batchMagic)], batchMagic)
	}
	// The sum comes before the format: a flipped bit must not pass for a newer program's batch.
	if want, got := binary.LittleEndian.Uint32(data[batchCRCOffset:]), batchCRC(data); want != got {
		return nil, gfs.Errorf(gfs.CodeCorrupt, "batch of %d bytes has CRC32C %08x, its header says %08x", len(data), got, want)
	}
	if format := data[len(batchMagic)]; format != batchFormat {
		return nil, gfs.Errorf(gfs.CodeInvalid, "batch of format %d: this program knows %d; run a newer one", format, batchFormat)
	}
	count := binary.LittleEndian.Uint32(data[batchCountOffset:])
	rest := data[batchHeaderBytes:]
	if count > MaxBatchRecords || int(count) > len(rest) {
		return nil, gfs.Errorf(gfs.CodeCorrupt, "batch of %d bytes claims %d records", len(data), count)
	}
	records := make([][]byte, 0, count)
	for range count {
		length, n := binary.Uvarint(rest)
		if n <= 0 || length > uint64(len(rest)-n) {
			return nil, gfs.Errorf(gfs.CodeCorrupt, "record %d of %d overruns its batch", len(records), count)
		}
		end := n + int(length)
		records = append(records, rest[n:end:end])
		rest = rest[end:]
	}
	if len(rest) != 0 {
		return nil, gfs.Errorf(gfs.CodeCorrupt, "%d bytes follow the last record of a batch", len(rest))
	}
	return records, nil
}
