package oplog

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/hashicorp/raft"
)

// flipInLog flips a bit of the first occurrence of text in the log's files.
func flipInLog(t *testing.T, dir, text string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, raftFolder, walFolder, "*.wal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(data, []byte(text)); at >= 0 {
			flipByte(t, path, int64(at))
			return
		}
	}
	t.Fatalf("%q is in none of %v", text, paths)
}

func TestDamagedLogEntryIsRefused(t *testing.T) {
	for _, text := range []string{"damage-me", batchMagic} {
		dir := t.TempDir()
		l := openActing(t, testConfig(t, dir, newTable()))
		mustPropose(t, l, "a=1")
		mustPropose(t, l, "damage-me=1")
		mustPropose(t, l, "b=1") // the last write is checked by raft-wal itself, and dropped as torn
		mustClose(t, l)
		flipInLog(t, dir, text)
		machine := newTable()
		l, err := Open(testContext(t), testConfig(t, dir, machine))
		if !errors.Is(err, gfs.ErrCorrupt) {
			t.Errorf("damage in %q: %v, want corrupt", text, err)
		}
		if err == nil {
			mustClose(t, l)
		}
		if len(machine.state()) != 0 {
			t.Error("a damaged log was applied")
		}
		flipInLog(t, dir, flipped(text))
		openActing(t, testConfig(t, dir, newTable()))
	}
}

// flipped is text as flipInLog leaves it.
func flipped(text string) string { return string(text[0]^0x10) + text[1:] }

// A batch that fails its check when it is applied stops everything, and nothing more is applied.
func TestDamagedBatchStopsTheLog(t *testing.T) {
	machine := newTable()
	cfg := testConfig(t, t.TempDir(), machine)
	crashed := make(chan error, 2)
	cfg.Crash = func(err error) { crashed <- err }
	l := openActing(t, cfg)
	mustPropose(t, l, "a=1")
	damaged := encodeBatch([][]byte{[]byte("b=2")})
	damaged[len(damaged)-1] ^= 1
	if err := l.raft.Apply(damaged, 0).Error(); err != nil {
		t.Fatal(err)
	}
	if err := <-crashed; !errors.Is(err, gfs.ErrCorrupt) {
		t.Errorf("crash: %v, want corrupt", err)
	}
	if _, err := l.Propose(testContext(t), []byte("c=3")); err == nil {
		t.Error("a stopped log accepts records")
	}
	if err := l.Linearize(testContext(t)); err == nil {
		t.Error("a stopped log serves reads")
	}
	if err := l.Checkpoint(testContext(t)); err == nil {
		t.Error("a stopped log writes checkpoints")
	}
	if got := machine.state(); len(got) != 1 {
		t.Errorf("state %v", got)
	}
	mustClose(t, l)
	if len(crashed) != 0 {
		t.Error("crashed twice")
	}
}

func TestEntryStoreRefusesDamageFromPeers(t *testing.T) {
	l := openActing(t, testConfig(t, t.TempDir(), newTable()))
	entry := raft.Log{Index: 7, Term: 1, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte{1, 2, 3, 4}}
	last, err := l.entries.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.entries.StoreLog(&entry); !errors.Is(err, gfs.ErrCorrupt) {
		t.Errorf("an entry with a wrong checksum: %v, want corrupt", err)
	}
	if now, err := l.entries.LastIndex(); err != nil || now != last {
		t.Errorf("the log ends at %d (%v), want %d: the entry was written", now, err, last)
	}
}

func FuzzDecodeBatch(f *testing.F) {
	f.Add(encodeBatch(nil))
	f.Add(encodeBatch([][]byte{[]byte("a"), nil, bytes.Repeat([]byte("b"), 300)}))
	f.Add([]byte("CLB\x02"))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, err := decodeBatch(data)
		if err != nil {
			// As a fuzzer does not guess checksums, go on with a right one.
			if len(data) < batchHeaderBytes {
				return
			}
			data = slices.Clone(data)
			copy(data, batchMagic)
			data[len(batchMagic)] = batchFormat
			sum := batchCRC(data)
			for i := range 4 {
				data[batchCRCOffset+i] = byte(sum >> (8 * i))
			}
			if records, err = decodeBatch(data); err != nil {
				return
			}
		}
		again, err := decodeBatch(encodeBatch(records))
		if err != nil || !slices.EqualFunc(again, records, bytes.Equal) {
			t.Fatalf("%q came back as %q (%v)", records, again, err)
		}
	})
}

func TestDecodeBatchRefuses(t *testing.T) {
	good := encodeBatch([][]byte{[]byte("abc"), []byte("de")})
	for i := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := decodeBatch(bad); gfs.CodeOf(err) != gfs.CodeCorrupt {
			t.Errorf("bit %d flipped: %v", i, err)
		}
	}
	for i := range good {
		if _, err := decodeBatch(good[:i]); gfs.CodeOf(err) != gfs.CodeCorrupt {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
}

func FuzzDecodeIdentity(f *testing.F) {
	f.Add(identity{cluster: "local", master: "m1"}.encode())
	f.Add([]byte(identityMagic + "\nformat 2\ncrc32c 00000000\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		id, err := decodeIdentity(data)
		if err == nil && !bytes.Equal(id.encode(), data) {
			t.Fatalf("%q reads as %+v, which is written differently", data, id)
		}
	})
}

func TestDecodeIdentityRefuses(t *testing.T) {
	good := identity{cluster: "local", master: "m1"}.encode()
	if _, err := decodeIdentity(good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 4
		if _, err := decodeIdentity(bad); err == nil {
			t.Errorf("byte %d changed: %q is accepted", i, bad)
		}
	}
	body := fmt.Sprintf("%s\nformat 2\nsomething new\n", identityMagic)
	newer := fmt.Appendf(nil, "%scrc32c %08x\n", body, crc32.Checksum([]byte(body), castagnoli()))
	if _, err := decodeIdentity(newer); gfs.CodeOf(err) != gfs.CodeInvalid {
		t.Errorf("a newer format: %v", err)
	}
}
