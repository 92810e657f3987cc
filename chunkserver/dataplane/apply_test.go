package dataplane

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/cairnfs/cairn/chunkserver/mutation"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
	"github.com/cairnfs/cairn/messages/wire"
)

// request makes a client's request as a connection would hand it on.
func request(pool *Pool, kind mutation.Kind, offset int64, data []byte) *Mutation {
	m := &Mutation{Request: mutation.Request{Kind: kind, Offset: offset, Length: len(data)}, conn: &conn{
		server: &Server{requests: newWindow(1<<20, 1<<30), shares: newShares()}, bytes: newWindow(1<<20, 1<<30),
	}}
	m.buffer = pool.Get(len(data))
	copy(m.buffer.Data, data)
	if kind == mutation.KindAppend {
		offset = 0
	}
	m.Checksums = wire.AppendChecksums(nil, offset, data)
	return m
}

// TestFramesSurviveTheWire builds frames as a primary does, from batches of all shapes, and reads them as a member.
func TestFramesSurviveTheWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var pool Pool
		store := newPushStore(PushLimits{})
		var b mutation.Batch[*Mutation]
		b.First = gfs.Serial(rapid.IntRange(1, 1000).Draw(t, "first"))
		length := rapid.SampledFrom([]int64{0, 100, gfs.BlockSize, gfs.BlockSize - 1, 5*gfs.BlockSize + 7}).Draw(t, "length")
		for range rapid.IntRange(1, 12).Draw(t, "mutations") {
			n := rapid.SampledFrom([]int{0, 1, 100, 1024, gfs.SmallMutationBytes - 1, gfs.SmallMutationBytes, 200_000}).Draw(t, "bytes")
			m := mutation.Mutation{Offset: length, Length: n, NewLength: length + int64(n), Writer: 7, Sequence: uint64(n), Lowest: 1}
			data := make([]byte, n)
			rand.NewChaCha8([32]byte{byte(n), byte(length)}).Read(data)
			var r *Mutation
			switch {
			case n == 0:
				m.NewLength += 10
				m.Dropped = []gfs.WriterID{3, 4}
			case rapid.Bool().Draw(t, "write"):
				m.Offset = int64(rapid.IntRange(0, int(length)).Draw(t, "offset"))
				m.NewLength = max(length, m.Offset+int64(n))
				r = request(&pool, mutation.KindWrite, m.Offset, data)
			default:
				r = request(&pool, mutation.KindAppend, 0, data)
			}
			if n >= gfs.SmallMutationBytes && rapid.Bool().Draw(t, "pushed") {
				store.hold(t, r, uint64(len(b.Mutations)+1), m.Offset)
			}
			length = m.NewLength
			b.Mutations, b.Requests = append(b.Mutations, m), append(b.Requests, r)
		}
		sent := NewApply(&pool, b)
		got := throughTheWire(t, sent, store)
		if got.First != sent.First || got.Last() != b.First+gfs.Serial(len(b.Mutations))-1 || got.Bytes() != sent.Bytes() {
			t.Fatalf("serials %d to %d with %d bytes became %d to %d with %d", sent.First, sent.Last(), sent.Bytes(), got.First, got.Last(), got.Bytes())
		}
		if !slices.EqualFunc(got.Mutations, sent.Mutations, func(a, b mutation.Mutation) bool {
			return a.Offset == b.Offset && a.Length == b.Length && a.NewLength == b.NewLength && a.Sequence == b.Sequence && slices.Equal(a.Dropped, b.Dropped)
		}) {
			t.Fatalf("mutations %+v became %+v", sent.Mutations, got.Mutations)
		}
		if len(got.Runs) != len(sent.Runs) {
			t.Fatalf("%d runs became %d", len(sent.Runs), len(got.Runs))
		}
		for i, run := range got.Runs {
			if run.Offset != sent.Runs[i].Offset || !bytes.Equal(run.Data, sent.Runs[i].Data) || !slices.Equal(run.Checksums, sent.Runs[i].Checksums) {
				t.Fatalf("run %d differs", i)
			}
			if err := wire.Verify(run.Checksums, run.Offset, run.Data); err != nil {
				t.Fatal(err)
			}
		}
		sent.Release()
		got.Release()
		for _, r := range b.Requests {
			if r != nil && r.pushed != nil {
				r.pushed.release(1) // as its answer does
			}
		}
		if len(store.kept) != 0 {
			t.Fatalf("%d pushes are kept", len(store.kept))
		}
	})
}

// hold makes the data of a request pushed ones, which the store has, as a connection does.
func (s *pushStore) hold(t *rapid.T, r *Mutation, counter uint64, offset int64) {
	if r.Request.Kind == mutation.KindAppend {
		offset = 0
	}
	p := &pushed{key: pushKey{1, counter}, buffer: r.buffer, offset: offset % gfs.BlockSize, sums: r.Checksums}
	if !s.admit(0, len(p.buffer.Data)) {
		t.Fatal("no room")
	}
	if err := s.put(p); err != nil {
		t.Fatal(err)
	}
	r.pushed = s.claim(p.key, 2)
}

// throughTheWire encodes a frame and reads it back. Pushed data come from the store.
func throughTheWire(t *rapid.T, a *Apply, store *pushStore) *Apply {
	var stream bytes.Buffer
	var encoder applyMessage
	var payload [][]byte
	for _, run := range a.Runs {
		if run.pushed.none() {
			payload = append(payload, run.Data)
		}
	}
	encoder.fill(a) // what a frame before has left must not matter
	if err := wire.NewWriter(&stream).Frame(wire.Header{Op: wire.OpChainApply}, encoder.fill(a), payload...); err != nil {
		t.Fatal(err)
	}
	in := wire.NewReader(&stream)
	h, err := in.Next()
	if err != nil {
		t.Fatal(err)
	}
	var message pb.ChainApply
	if err := in.Decode(&message); err != nil {
		t.Fatal(err)
	}
	got, err := parseApply(&message, h.PayloadBytes)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, h.PayloadBytes)
	if err := in.Payload(data); err != nil {
		t.Fatal(err)
	}
	if err := got.layOut(data, message.Checksums); err != nil {
		t.Fatal(err)
	}
	for i := range got.Runs {
		run := &got.Runs[i]
		if run.pushed.none() {
			continue
		}
		p := store.borrow(run.pushed)
		if p == nil || !p.fits(got.Mutations[run.mutation].Length, run.Offset, run.Checksums) {
			t.Fatalf("run %d does not fit what was pushed as %v", i, run.pushed)
		}
		run.Data, got.claimed = p.buffer.Data, append(got.claimed, p)
	}
	return got
}

func TestSmallAppendsShareARun(t *testing.T) {
	var pool Pool
	b := mutation.Batch[*Mutation]{First: 1}
	for i := range int64(10) {
		b.Mutations = append(b.Mutations, mutation.Mutation{Offset: i * 1000, Length: 1000, NewLength: i*1000 + 1000})
		b.Requests = append(b.Requests, request(&pool, mutation.KindAppend, 0, make([]byte, 1000)))
	}
	a := NewApply(&pool, b)
	if len(a.Runs) != 1 || len(a.Runs[0].Data) != 10_000 || len(a.Runs[0].Checksums) != 1 {
		t.Fatalf("%d runs", len(a.Runs))
	}
	if b.Requests[0].Data() != nil {
		t.Error("a copied request keeps its memory")
	}
	a.Release()
}

func FuzzParseApply(f *testing.F) {
	seed := func(m *pb.ChainApply, payload int) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, payload)
	}
	seed(&pb.ChainApply{}, 0)
	seed(&pb.ChainApply{FirstSerial: 1, Mutations: []*pb.ChainMutation{{Offset: 5, Length: 3, NewLength: 8}}, Checksums: []uint32{1}}, 3)
	seed(&pb.ChainApply{FirstSerial: 1, Mutations: []*pb.ChainMutation{
		{Length: 100_000, NewLength: 100_000}, {Offset: 100_000, Length: 10, NewLength: 100_010}, {Offset: 100_010, Length: 10, NewLength: 100_020},
	}, Checksums: []uint32{1, 2, 3}}, 100_020)
	seed(&pb.ChainApply{FirstSerial: 1, Mutations: []*pb.ChainMutation{
		{Length: 70_000, NewLength: 70_000, PushedSession: 1, PushedCounter: 2}, {Offset: 70_000, Length: 10, NewLength: 70_010},
	}, Checksums: []uint32{1, 2, 3}}, 10)
	seed(&pb.ChainApply{FirstSerial: 1, Mutations: []*pb.ChainMutation{{Offset: -1, Length: 1 << 31, NewLength: 8, DroppedWriters: []uint64{1}}}}, 3)
	f.Fuzz(func(t *testing.T, b []byte, payload int) {
		var m pb.ChainApply
		if payload < 0 || payload > 1<<20 || proto.Unmarshal(b, &m) != nil {
			return
		}
		a, err := parseApply(&m, payload)
		if err == nil {
			err = a.layOut(make([]byte, payload), m.Checksums)
		}
		if err != nil {
			if gfs.CodeOf(err) != gfs.CodeInvalid {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		total, parts := 0, 0
		for _, run := range a.Runs {
			n := len(run.Data)
			if !run.pushed.none() {
				if n = a.Mutations[run.mutation].Length; n < gfs.SmallMutationBytes || run.Data != nil {
					t.Fatalf("a run of %d pushed bytes with %d others", n, len(run.Data))
				}
			}
			total += len(run.Data)
			parts += len(run.Checksums)
			if run.Offset < 0 || run.Offset+int64(n) > gfs.ChunkSize || len(run.Checksums) != wire.Parts(run.Offset, int64(n)) {
				t.Fatalf("run at %d of %d bytes with %d checksums", run.Offset, n, len(run.Checksums))
			}
		}
		if total != payload || parts != len(m.Checksums) {
			t.Fatalf("%d bytes in runs of %d, %d checksums of %d", total, payload, parts, len(m.Checksums))
		}
	})
}

func TestRequestsOutsideAChunkAreRefused(t *testing.T) {
	sums := []uint32{1}
	for name, c := range map[string]struct {
		m       *pb.Mutate
		payload int
		want    gfs.Code
	}{
		"good":               {&pb.Mutate{Kind: pb.Mutate_WRITE, Offset: gfs.ChunkSize - 1, Checksums: sums}, 1, gfs.CodeNone},
		"write with writer":  {&pb.Mutate{Kind: pb.Mutate_WRITE, Writer: 1, Checksums: sums}, 1, gfs.CodeInvalid},
		"record too large":   {&pb.Mutate{Kind: pb.Mutate_APPEND}, gfs.MaxRecordBytes + 1, gfs.CodeRecordTooLarge},
		"two parts, one sum": {&pb.Mutate{Kind: pb.Mutate_WRITE, Offset: gfs.BlockSize - 1, Checksums: sums}, 2, gfs.CodeInvalid},
		"pushed":             {&pb.Mutate{Kind: pb.Mutate_APPEND, Checksums: sums, PushedSession: 1, PushedBytes: gfs.BlockSize}, 0, gfs.CodeNone},
		"pushed and sent":    {&pb.Mutate{Kind: pb.Mutate_APPEND, Checksums: sums, PushedSession: 1, PushedBytes: gfs.BlockSize}, 1, gfs.CodeInvalid},
		"too little pushed":  {&pb.Mutate{Kind: pb.Mutate_APPEND, Checksums: sums, PushedSession: 1, PushedBytes: 1}, 0, gfs.CodeInvalid},
		"too much pushed":    {&pb.Mutate{Kind: pb.Mutate_APPEND, Checksums: sums, PushedSession: 1, PushedBytes: 1 << 31}, 0, gfs.CodeInvalid},
		"offset overflows":   {&pb.Mutate{Kind: pb.Mutate_WRITE, Offset: 1<<63 - 1, Checksums: sums}, 1, gfs.CodeInvalid},
	} {
		if _, err := requestOf(c.m, c.payload); gfs.CodeOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPoolReusesAndCatchesDoubleRelease(t *testing.T) {
	var pool Pool
	for _, n := range []int{0, 1, 1024, 1025, gfs.StreamPieceBytes, gfs.MaxPieceBytes} {
		b := pool.Get(n)
		if len(b.Data) != n {
			t.Fatalf("%d bytes for %d", len(b.Data), n)
		}
		b.Release()
		if again := pool.Get(n); again != b {
			t.Errorf("a buffer of %d bytes is not reused", n)
		}
	}
	b := pool.Get(5)
	b.Release()
	defer func() {
		if recover() == nil {
			t.Error("a second release goes unnoticed")
		}
	}()
	b.Release()
}

func TestWindowHoldsBackAndLetsGo(t *testing.T) {
	w := newWindow(2, 100)
	w.take(1000) // alone, anything passes
	passed := make(chan int, 3)
	go func() {
		w.take(60)
		passed <- 60
	}()
	select {
	case <-passed:
		t.Fatal("the window lets more bytes in than it has")
	default:
	}
	w.put(1000)
	<-passed
	w.take(40)
	go func() {
		w.take(0)
		passed <- 0
	}()
	w.put(40)
	<-passed
	go func() {
		w.take(50)
		passed <- 50
	}()
	w.close()
	if n := <-passed; n != 50 {
		t.Fatalf("%d passed", n)
	}
	if w.inUse() != 3 {
		t.Errorf("%d in use", w.inUse())
	}
}

type mutationType = mutation.Mutation

// mutationOf is an append of n bytes at offset.
func mutationOf(offset int64, n int) mutationType {
	return mutationType{Offset: offset, Length: n, NewLength: offset + int64(n)}
}
