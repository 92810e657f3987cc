package record_test

import (
	"bytes"
	"context"
	"fmt"
	"log"

	"github.com/cairnfs/cairn/clientlib/record"
)

// file stands for a clientlib.File: it appends whole records and reads at offsets.
type file struct{ content []byte }

// offset is an append that was acknowledged at once.
type offset int64

func (o offset) Wait(context.Context) (int64, error) { return int64(o), nil }

func (f *file) AppendAsync(_ context.Context, record []byte) offset {
	f.content = append(f.content, record...)
	return offset(len(f.content) - len(record))
}

func (f *file) ReadAt(p []byte, offset int64) (int, error) {
	return bytes.NewReader(f.content).ReadAt(p, offset)
}

// A producer appends messages; a consumer reads them and keeps its position, so that after a restart it goes on where it was.
func Example() {
	ctx := context.Background()
	var events file
	writer := record.NewWriter(&events)
	for _, event := range []string{"login", "purchase", "logout"} {
		if _, err := writer.Append(ctx, []byte(event)); err != nil {
			log.Panic(err)
		}
	}
	if err := writer.Close(); err != nil {
		log.Panic(err)
	}

	reader := record.NewReader(&events)
	for r, err := range reader.Records(ctx) {
		if err != nil {
			log.Panic(err)
		}
		fmt.Println(r.Seq, string(r.Payload))
		if r.Seq == 2 {
			break
		}
	}
	kept, _ := reader.Position().MarshalText()

	fmt.Println("after a restart:")
	var position record.Position
	if err := position.UnmarshalText(kept); err != nil {
		log.Panic(err)
	}
	reader = record.NewReader(&events)
	reader.SeekTo(position)
	for r := range reader.Records(ctx) {
		fmt.Println(r.Seq, string(r.Payload))
	}
	// Output:
	// 1 login
	// 2 purchase
	// after a restart:
	// 3 logout
}

// Enqueue keeps a window of records on their way; the ack tells what became of each, Flush waits for all.
func ExampleWriter_Enqueue() {
	ctx := context.Background()
	acknowledged := 0
	writer := record.NewWriter(new(file), record.WithAck(func(seq uint64, offset int64, err error) {
		if err == nil {
			acknowledged++
		}
	}))
	for i := range 100 {
		if err := writer.Enqueue(ctx, fmt.Appendf(nil, "message %d", i)); err != nil {
			log.Panic(err)
		}
	}
	if err := writer.Flush(ctx); err != nil {
		log.Panic(err)
	}
	fmt.Println(acknowledged)
	// Output: 100
}

// Files that were each written in order merge into one sequence.
func ExampleMerge() {
	ctx := context.Background()
	var east, west file
	for f, events := range map[*file][]string{&east: {"09:00 east", "09:20 east"}, &west: {"09:10 west"}} {
		writer := record.NewWriter(f)
		for _, event := range events {
			if _, err := writer.Append(ctx, []byte(event)); err != nil {
				log.Panic(err)
			}
		}
	}
	compare := func(a, b record.Record) int { return bytes.Compare(a.Payload, b.Payload) }
	merged := record.Merge(compare, record.NewReader(&east).Records(ctx), record.NewReader(&west).Records(ctx))
	for r, err := range merged {
		if err != nil {
			log.Panic(err)
		}
		fmt.Println(string(r.Payload))
	}
	// Output:
	// 09:00 east
	// 09:10 west
	// 09:20 east
}
