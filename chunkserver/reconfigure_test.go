package chunkserver_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnfs/cairn/messages/gfs"
)

// place is where a chunk is mutated at present.
type place struct {
	version gfs.Version
	members []int // primary first
}

// headBytes is the length of a record's writer and sequence; the rest is 0xff.
const headBytes = 16

// recordsIn counts the records of each writer and sequence in a chunk.
func recordsIn(content []byte) map[string]int {
	found := make(map[string]int)
	for i := 0; i+headBytes <= len(content); {
		if content[i] == 0xff {
			i++
			continue
		}
		found[string(content[i:i+headBytes])]++
		i += headBytes
	}
	return found
}

// acked is an append that was acknowledged.
type acked struct {
	offset int64
	data   []byte
}

// appender appends records to whoever is primary, and repeats each until it is acknowledged.
func appender(t *testing.T, r *rig, handle gfs.ChunkHandle, at *atomic.Pointer[place], writer gfs.WriterID, stop *atomic.Bool) []acked {
	var done []acked
	var c *client
	defer func() {
		if c != nil {
			c.close()
		}
	}()
	connected := -1
	for sequence := uint64(1); !stop.Load(); sequence++ {
		data := bytes.Repeat([]byte{0xff}, headBytes+1+rand.IntN(3000))
		binary.BigEndian.PutUint64(data, uint64(writer))
		binary.BigEndian.PutUint64(data[8:], sequence)
		for attempt := 0; ; attempt++ {
			if attempt > 2000 {
				t.Errorf("writer %d: append %d is never acknowledged", writer, sequence)
				return done
			}
			p := at.Load()
			if connected != p.members[0] {
				if c != nil {
					c.close()
				}
				c, connected = dial(t, r.servers[p.members[0]].Addr()), p.members[0]
			}
			got := <-c.append(handle, p.version, writer, sequence, data)
			if got.err == nil {
				done = append(done, acked{got.offset, data})
				break
			}
			switch gfs.CodeOf(got.err) {
			case gfs.CodeNotPrimary, gfs.CodeStaleVersion, gfs.CodeUnavailable, gfs.CodeBusy:
			default:
				t.Errorf("writer %d: append %d: %v", writer, sequence, got.err)
				return done
			}
			<-time.After(time.Millisecond)
		}
	}
	return done
}

// TestAppendsSurviveReconfigurations changes the configuration at random under load: the primary, the members, and
// members that were left out and come back stale. Nothing that was acknowledged may be lost, torn or there twice.
func TestAppendsSurviveReconfigurations(t *testing.T) {
	r := newRig(t, 4)
	const handle, appenders, changes = gfs.ChunkHandle(11), 4, 25
	first := r.create(handle, 0, 1, 2)
	r.logged.Store(uint64(handle), uint64(first))
	var at atomic.Pointer[place]
	at.Store(&place{first, []int{0, 1, 2}})

	var stop atomic.Bool
	var wg sync.WaitGroup
	results := make([][]acked, appenders)
	for i := range appenders {
		wg.Go(func() { results[i] = appender(t, r, handle, &at, gfs.WriterID(i+1), &stop) })
	}
	random := rand.New(rand.NewPCG(1, 2))
	holds := []bool{true, true, true, false} // a replica of some version
	for range changes {
		<-time.After(time.Duration(random.IntN(40)) * time.Millisecond)
		now := at.Load()
		next := changeConfiguration(t, r, random, handle, *now, holds)
		at.Store(&next)
	}
	stop.Store(true)
	wg.Wait()
	end := *at.Load()
	total := int64(0)
	count := 0
	for _, list := range results {
		count += len(list)
		for _, a := range list {
			total = max(total, a.offset+int64(len(a.data)))
		}
	}
	t.Logf("%d appends acknowledged over %d configurations, %d bytes", count, changes, total)
	if count < changes {
		t.Error("hardly anything was appended")
	}
	var content []byte
	for _, i := range end.members {
		c := dial(t, r.servers[i].Addr())
		got := c.readAll(handle, end.version, total)
		if content == nil {
			content = got
		} else if !bytes.Equal(content, got) {
			t.Errorf("server %d differs from the primary", i)
		}
	}
	found := recordsIn(content)
	for w, list := range results {
		for sequence, a := range list {
			if !bytes.Equal(content[a.offset:a.offset+int64(len(a.data))], a.data) {
				t.Fatalf("append %d of writer %d is not at %d", sequence+1, w+1, a.offset)
			}
			if again := found[string(a.data[:headBytes])]; again != 1 {
				t.Fatalf("append %d of writer %d is there %d times", sequence+1, w+1, again)
			}
		}
	}
}

// changeConfiguration plays the master: everyone who is told must answer, one of those told who was a member becomes
// primary, and whoever cannot be brought in is left out of another attempt.
func changeConfiguration(t *testing.T, r *rig, random *rand.Rand, handle gfs.ChunkHandle, now place, holds []bool) place {
	t.Helper()
	told := append([]int(nil), now.members...)
	random.Shuffle(len(told), func(i, j int) { told[i], told[j] = told[j], told[i] })
	if len(told) > 1 && random.IntN(2) == 0 {
		told = told[:len(told)-1] // as if it had been accused
	}
	good := len(told) // who may be primary: told, and a member of the version that the attempt starts from
	for i, held := range holds {
		if held && random.IntN(2) == 0 && !contains(now.members, i) {
			told = append(told, i)
		}
	}
	for {
		version := r.nextVersion()
		for i, n := range told {
			reply, err := r.prepare(n, handle, version, now.version)
			if err != nil {
				t.Fatalf("prepare at server %d: %v", n, err)
			}
			if i < good && gfs.Version(reply.Active) != now.version && gfs.Version(reply.Promised) != version {
				t.Fatalf("server %d is not good: %v", n, reply)
			}
		}
		r.logged.Store(uint64(handle), uint64(version))
		reply, err := r.grant(handle, version, told...)
		if err != nil {
			t.Fatalf("grant of %v to %v: %v", version, told, err)
		}
		next := place{version, told}
		if reply.Accused == "" {
			return next
		}
		t.Fatalf("server %s was accused", reply.Accused)
	}
}

func contains(list []int, n int) bool {
	for _, e := range list {
		if e == n {
			return true
		}
	}
	return false
}

// TestWritesDuringReconfigurationStayWhole overwrites one range again and again while the configuration changes: the
// replicas must agree in the end, and the range must be one of the writes.
func TestWritesDuringReconfigurationStayWhole(t *testing.T) {
	r := newRig(t, 3)
	const handle = gfs.ChunkHandle(12)
	version := r.create(handle, 0, 1, 2)
	r.logged.Store(uint64(handle), uint64(version))
	var at atomic.Pointer[place]
	at.Store(&place{version, []int{0, 1, 2}})
	var stop atomic.Bool
	var wg sync.WaitGroup
	var last byte
	wg.Go(func() {
		for n := byte(1); !stop.Load(); n++ {
			data := bytes.Repeat([]byte{n}, 200_000)
			for {
				p := at.Load()
				c := dial(t, r.servers[p.members[0]].Addr())
				got := <-c.write(handle, p.version, 50_000, data)
				c.close()
				if got.err == nil {
					last = n
					break
				}
				if errors.Is(got.err, gfs.ErrCorrupt) {
					t.Error(got.err)
					return
				}
				<-time.After(time.Millisecond)
			}
		}
	})
	random := rand.New(rand.NewPCG(3, 4))
	for range 15 {
		<-time.After(time.Duration(random.IntN(30)) * time.Millisecond)
		members := random.Perm(3)
		next := r.reconfigure(handle, at.Load().version, members...)
		at.Store(&place{next, members})
	}
	stop.Store(true)
	wg.Wait()
	want := append(make([]byte, 50_000), bytes.Repeat([]byte{last}, 200_000)...)
	for i := range 3 {
		if got := dial(t, r.servers[i].Addr()).readAll(handle, at.Load().version, 250_000); !bytes.Equal(got, want) {
			t.Errorf("server %d does not hold the last acknowledged write", i)
		}
	}
}
