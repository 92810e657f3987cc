package chaos

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A raw entry, as the producers of rawPath append it, says by itself who wrote it and whether it is whole:
//
//	magic | producer | number | length of all | CRC32C of all before and behind it | filling
//
// each but the filling 4 bytes, little endian.
const entryHeadBytes = 20

const entryMagic = 0x5fa1c0de

// entryID tells entries apart.
type entryID struct{ producer, number uint32 }

func (id entryID) String() string { return fmt.Sprintf("%d/%d", id.producer, id.number) }

func entrySum(entry []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(entry[:16], table), table, entry[20:])
}

// encodeEntry makes an entry of length bytes, at least entryHeadBytes.
func encodeEntry(id entryID, length int) []byte {
	entry := make([]byte, length)
	for i := entryHeadBytes; i < length; i++ {
		entry[i] = byte(id.number*31 + id.producer*7 + uint32(i))
	}
	for i, word := range []uint32{entryMagic, id.producer, id.number, uint32(length)} {
		binary.LittleEndian.PutUint32(entry[4*i:], word)
	}
	binary.LittleEndian.PutUint32(entry[16:], entrySum(entry))
	return entry
}

// decodeEntry reads the entry at the beginning of data.
func decodeEntry(data []byte) (id entryID, length int, err error) {
	if len(data) < entryHeadBytes || binary.LittleEndian.Uint32(data) != entryMagic {
		return id, 0, fmt.Errorf("no entry begins here: % x", data[:min(len(data), entryHeadBytes)])
	}
	id = entryID{binary.LittleEndian.Uint32(data[4:]), binary.LittleEndian.Uint32(data[8:])}
	length = int(binary.LittleEndian.Uint32(data[12:]))
	if length < entryHeadBytes || length > len(data) {
		return id, 0, fmt.Errorf("entry %s claims %d bytes of %d", id, length, len(data))
	}
	if sum := entrySum(data[:length]); sum != binary.LittleEndian.Uint32(data[16:]) {
		return id, 0, fmt.Errorf("entry %s is torn or damaged", id)
	}
	return id, length, nil
}

// fillPattern fills data with what a file written with a salt has from offset on: no two blocks are alike.
func fillPattern(data []byte, offset int64, salt uint64) {
	for i := range data {
		at := uint64(offset) + uint64(i)
		word := (at/8 + salt) * 0x9e3779b97f4a7c15
		data[i] = byte(word >> (8 * (at % 8)))
	}
}

// checkPattern says where data differ from the pattern.
func checkPattern(data []byte, offset int64, salt uint64) error {
	want := make([]byte, len(data))
	fillPattern(want, offset, salt)
	for i := range data {
		if data[i] != want[i] {
			return fmt.Errorf("byte %d is %#x, not %#x", offset+int64(i), data[i], want[i])
		}
	}
	return nil
}
