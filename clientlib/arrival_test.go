package clientlib

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

func TestWhatArrivesIsCheckedInSteps(t *testing.T) {
	payload := make([]byte, 3*stepBytes)
	for i := range payload {
		payload[i] = byte(i * 131)
	}
	rapid.Check(t, func(t *rapid.T) {
		offset := rapid.Int64Range(0, gfs.ChunkSize-int64(len(payload))).Draw(t, "offset")
		data := append([]byte(nil), payload[:rapid.IntRange(1, len(payload)).Draw(t, "length")]...)
		sums := wire.AppendChecksums(nil, offset, data)
		damage := rapid.SampledFrom([]string{"none", "byte", "missing", "surplus"}).Draw(t, "damage")
		switch damage {
		case "byte":
			data[rapid.IntRange(0, len(data)-1).Draw(t, "at")] ^= 0x20
		case "missing":
			sums = sums[:len(sums)-1]
		case "surplus":
			sums = append(sums, 1)
		}
		check := &arrivalCheck{offset: offset, reply: &pb.ReadReply{Checksums: sums}}
		for left := data; len(left) > 0; {
			n := check.step(min(len(left), stepBytes))
			check.take(left[:n])
			left = left[n:]
		}
		if err := check.end(); (err == nil) != (damage == "none") {
			t.Fatalf("damage %s: %v", damage, err)
		}
	})
}
