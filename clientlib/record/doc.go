// Package record puts messages on top of record append: a Writer frames each payload, a Reader finds the frames
// again and hands out every acknowledged payload exactly once, in the order of the file. Padding, fragments,
// garbage and duplicates never reach the caller.
//
// # The frame
//
// All numbers are big-endian; lengths are in bytes.
//
//	magic 4 | version 1 | flags 1 | zero 2 | payload length 4 | mask 4 | writer 8 | sequence 8 | payload | CRC32C 4
//
// The CRC32C (Castagnoli) covers everything before it. A frame holds the magic at its beginning and nowhere else: where the
// payload or the checksum would contain it, the payload is stored XORed with a mask that removes it (four random
// bytes; a payload of 16 MiB rules out at most one mask in 256). From this follow the properties that the reader
// needs: a payload that itself consists of frames never shows through when the frame around it is torn; a frame cut
// short is told from one that is still arriving, because the former has another magic inside; and the search
// through any input, hostile ones too, takes time linear in its length. A newer version or an unknown flag is refused
// with a clear error if the checksum holds, and is garbage otherwise.
//
// # What a reader meets, and what it does
//
//   - Padding: zeros from a record that did not fit to the end of the chunk, or in place of a cancelled append. It is
//     skipped at the speed of memory.
//   - Fragments and garbage, from writers that do not frame or from a file system that leaves half an append: the
//     checksum fails or another magic follows too soon, and the search goes on behind the false beginning. A
//     record never crosses a chunk boundary, so a frame that claims to is false too.
//   - A frame that ends beyond the end of the file is not there yet: the iteration ends before it and takes it up
//     when it is called again. So a growing file can be followed.
//   - Duplicates, told by writer and sequence. The file system drops retries of its own within ten minutes and one
//     chunk's table of writers; what can be left is a retry by the Writer after an unknown outcome, one by an
//     application that resumed with the same writer id, and what the table no longer knew.
//
// # Why the memory for duplicates is bounded and still enough
//
// A Writer sends sequence s + MaxWindow only after the outcome of s was settled. An acknowledged record therefore
// stands in the file before anything MaxWindow above it, and a reader that remembers, for each writer, which of
// the latest MaxWindow sequences it has seen may drop whatever lies below: it is a duplicate, or the late arrival of an
// append that was reported as failed. The writers remembered are bounded too (WithWriters, the least recently
// met one is forgotten first). A duplicate that arrives after as many other writers have written is handed out again.
//
// # Order
//
// Records come in the order of the file. Those of one Writer stand there in the order in which they were given, except
// that one whose append had to be repeated (WithRetries) may stand behind later ones of its window; a window of one
// excludes that too.
//
// # What it does not do
//
// It stores nothing but the frames: a consumer keeps its own Position. It does not wait for a file to grow
// (clientlib's Tail does), does not compress, and does not tell honest writers from those that forge ids.
package record
