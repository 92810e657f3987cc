package bench

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

func testMaker(size int) maker { return newMaker(size, Config{Seed: 3}.noise) }

// file is a file as appends leave it: records of several producers in any order, padding between some.
func file(t *rapid.T, m maker) (content []byte, records []acknowledged) {
	numbers := [3]uint64{}
	for range rapid.IntRange(1, 20).Draw(t, "records") {
		content = append(content, make([]byte, rapid.SampledFrom([]int{0, 0, 1, m.size, 3*m.size + 1}).Draw(t, "padding"))...)
		p := rapid.Uint64Range(0, 2).Draw(t, "producer")
		records = append(records, acknowledged{int64(len(content)), p, numbers[p]})
		record := make([]byte, m.size)
		m.fill(record, stamp{run: 9, producer: p, number: numbers[p]})
		content = append(content, record...)
		numbers[p]++
	}
	return content, records
}

func TestAnUndamagedFileHasAllRecords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := testMaker(rapid.IntRange(MinRecordBytes, 200).Draw(t, "size"))
		content, records := file(t, m)
		rand.New(rand.NewPCG(1, 1)).Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
		if found, err := m.check(iotest.HalfReader(bytes.NewReader(content)), 9, records); found != (finding{}) || err != nil {
			t.Errorf("%+v, %v", found, err)
		}
	})
}

func TestEveryDamageIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := testMaker(rapid.IntRange(MinRecordBytes+8, 200).Draw(t, "size"))
		content, records := file(t, m)
		victim := rapid.IntRange(0, len(records)-1).Draw(t, "victim")
		at := int(records[victim].offset)
		wantLost, wantTorn := int64(0), int64(0)
		switch rapid.SampledFrom([]string{"body", "zeros", "other", "cut before", "cut within", "overlap"}).Draw(t, "damage") {
		case "body":
			content[at+rapid.IntRange(stampBytes, m.size-1).Draw(t, "byte")] ^= 1
			wantTorn = 1
		case "zeros":
			clear(content[at:][:m.size])
			content[at] = 1 // not even a stamp of zeros
			wantLost = 1
		case "other":
			m.fill(content[at:], stamp{run: 9, producer: 7, number: 7})
			wantLost = 1
		case "cut before":
			content = content[:at]
			wantLost = int64(len(records) - victim)
		case "cut within":
			content = content[:at+rapid.IntRange(1, m.size-1).Draw(t, "left")]
			wantLost, wantTorn = int64(len(records)-victim-1), 1
		case "overlap":
			records = append(records, acknowledged{int64(at + rapid.IntRange(1, m.size-1).Draw(t, "into")), 8, 0})
			wantTorn = 1
		}
		found, err := m.check(bytes.NewReader(content), 9, slices.Clone(records))
		if found.lost != wantLost || found.torn != wantTorn || found.first == nil || err != nil {
			t.Errorf("%+v, %v; want %d lost and %d torn", found, err, wantLost, wantTorn)
		}
	})
}

func TestHalvesOfTwoRecordsAreNotARecord(t *testing.T) {
	m := testMaker(256)
	a, b := make([]byte, m.size), make([]byte, m.size)
	m.fill(a, stamp{1, 1, 1})
	m.fill(b, stamp{1, 1, 2})
	copy(a[128:], b[128:])
	if named, whole := m.named(a, stamp{1, 1, 1}); !named || whole {
		t.Errorf("a mixture: named %v, whole %v", named, whole)
	}
}

func TestAFileThatCannotBeReadIsAnError(t *testing.T) {
	m := testMaker(64)
	_, err := m.check(iotest.ErrReader(bytes.ErrTooLarge), 1, []acknowledged{{0, 0, 0}})
	if err != bytes.ErrTooLarge {
		t.Errorf("%v, want the reader's error", err)
	}
}
