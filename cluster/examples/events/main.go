// Command events appends one record to /events and prints all records there: a first program with clientlib.
//
//	go run ./cluster/examples/events hello
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/clientlib/record"
)

func main() {
	if err := run(context.Background(), strings.Join(os.Args[1:], " ")); err != nil {
		fmt.Fprintln(os.Stderr, "events:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, payload string) (err error) {
	client, err := clientlib.Connect(ctx, "nats://127.0.0.1:4222")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	f, err := client.OpenFile(ctx, "/events", os.O_RDWR|os.O_CREATE|os.O_APPEND)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := record.NewWriter(f)
	if _, err := w.Append(ctx, []byte(payload)); err != nil { // acknowledged: on every replica
		return err
	}
	for r, err := range record.NewReader(f).Records(ctx) {
		if err != nil {
			return err
		}
		fmt.Printf("%d: %s\n", r.Offset, r.Payload)
	}
	return w.Close()
}
