package clientlib_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/cairnfs/cairn/clientlib"
)

// The programs below need a cluster; start one with: cairn dev

func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := clientlib.Connect(ctx, "nats://127.0.0.1:4222")
	if err != nil {
		fmt.Println(err) // says what to start
		return
	}
	defer client.Close()

	if err := client.WriteFile(ctx, "/greeting", []byte("hello"), 0o644); err != nil {
		fmt.Println(err)
		return
	}
	data, err := client.ReadFile(ctx, "/greeting")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(data))
}

// Several producers append to one file at once: each record is whole, and stands at the offset that its append
// returned.
func ExampleFile_Append() {
	ctx := context.Background()
	client, err := clientlib.Connect(ctx, "nats://127.0.0.1:4222")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	file, err := client.OpenFile(ctx, "/events", os.O_RDWR|os.O_CREATE)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer file.Close()

	offset, err := file.Append(ctx, []byte("something happened\n"))
	if errors.Is(err, clientlib.ErrOutcomeUnknown) {
		fmt.Println("the record may or may not be there: ", err)
		return
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("the record begins at", offset)
}

// AppendAsync keeps many records on their way from one goroutine.
func ExampleFile_AppendAsync() {
	ctx := context.Background()
	client, err := clientlib.Connect(ctx, "nats://127.0.0.1:4222")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	file, err := client.Create(ctx, "/log", clientlib.WithReplicas(2))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer file.Close()

	var pending []*clientlib.Pending
	for i := range 1000 {
		pending = append(pending, file.AppendAsync(ctx, fmt.Appendf(nil, "record %d\n", i)))
	}
	for _, one := range pending {
		if _, err := one.Wait(ctx); err != nil {
			fmt.Println(err)
			return
		}
	}
	if err := file.Sync(ctx); err != nil { // on disk at every replica
		fmt.Println(err)
		return
	}
}

// A File is an io.Writer whose Write only queues: Close or Sync tells whether everything arrived.
func ExampleFile_Write() {
	ctx := context.Background()
	client, err := clientlib.Connect(ctx, "nats://127.0.0.1:4222")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	file, err := client.OpenFile(ctx, "/copy", os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = io.Copy(file, os.Stdin)
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		fmt.Println(err)
		return
	}
}

// Whatever understands io/fs can read from a cluster.
func ExampleClient_FS() {
	ctx := context.Background()
	client, err := clientlib.Connect(ctx, "nats://127.0.0.1:4222", clientlib.WithCluster("local"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	err = fs.WalkDir(client.FS(ctx), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fmt.Println(path, entry.IsDir())
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
}

// Work can go to the data: Locations says which servers hold which part of a file.
func ExampleClient_Locations() {
	ctx := context.Background()
	client, err := clientlib.Connect(ctx, "nats://127.0.0.1:4222")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	chunks, err := client.Locations(ctx, "/big", 0, 1<<30)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, chunk := range chunks {
		fmt.Println(chunk.Offset, chunk.Length, chunk.Servers[0].Addr)
	}
}
