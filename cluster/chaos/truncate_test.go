package chaos_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/messages/gfs"
)

// A file is truncated and written to while one process after the other is killed, the master and NATS among them: after
// each call that was acknowledged the file is what a plain slice of bytes is.
func TestAFileIsTruncatedWhileProcessesAreKilled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	r := newRig(t, ctx, 1, 4)
	client, err := clientlib.Connect(ctx, r.URL(), clientlib.WithTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	f, err := client.OpenFile(ctx, "/f", os.O_RDWR|os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const kills = 8
	over := make(chan struct{})
	go func() {
		defer close(over)
		names := r.Names()
		for i := range kills {
			select {
			case <-time.After(r.between(100*time.Millisecond, 800*time.Millisecond)):
			case <-ctx.Done():
			}
			name := names[(i+1)%len(names)] // each in turn, the master first
			if err := r.Kill(name); err != nil {
				t.Errorf("kill %s: %v", name, err)
			}
			if err := r.Start(ctx, name); err != nil {
				t.Errorf("start %s: %v", name, err)
			}
		}
	}()
	random := rand.New(rand.NewPCG(*seed, 2))
	var want []byte
	calls, cuts := 0, 0
	for running := true; running; calls++ {
		select {
		case <-over:
			running = false // once more, with everything up
		default:
		}
		end := int64(len(want))
		switch random.IntN(3) {
		case 0:
			size := random.Int64N(2 << 20)
			if random.IntN(4) == 0 {
				size += gfs.ChunkSize - 1<<20
			}
			if err := f.Truncate(ctx, size); err != nil {
				t.Fatalf("truncate %d to %d: %v", end, size, err)
			}
			want = append(want, make([]byte, max(size-end, 0))...)[:size:size]
			cuts++
		default:
			data := bytes.Repeat([]byte{byte(1 + calls%255)}, 1+random.IntN(200_000))
			at := random.Int64N(end + 100_000)
			if _, err := f.WriteAt(data, at); err != nil {
				t.Fatalf("write %d at %d: %v", len(data), at, err)
			}
			want = append(want, make([]byte, max(at+int64(len(data))-end, 0))...)
			copy(want[at:], data)
		}
		info, err := f.Stat(ctx)
		if err != nil || info.Size() != int64(len(want)) {
			t.Fatalf("call %d: %v, %v, want %d bytes", calls, info, err, len(want))
		}
		got := make([]byte, len(want)+1)
		if n, err := f.WithContext(ctx).ReadAt(got, 0); err != io.EOF || !bytes.Equal(got[:n], want) {
			t.Fatalf("call %d: %d bytes, %v, want %d", calls, n, err, len(want))
		}
	}
	<-over
	t.Logf("%d calls, %d of them truncations, while %d processes were killed", calls, cuts, kills)
	if cuts == 0 {
		t.Error("nothing was truncated")
	}
}
