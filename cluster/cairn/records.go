package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/clientlib/record"
	"github.com/cairnfs/cairn/messages/gfs"
)

// cat prints a file's bytes, or the payloads of its records.
func (a *app) cat(ctx context.Context, client *clientlib.Client, name string, records bool) (err error) {
	f, err := client.Open(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if !records {
		_, err = io.Copy(a.stdout, f.WithContext(ctx))
		return err
	}
	out := bufio.NewWriter(a.stdout)
	for r, err := range record.NewReader(f.WithContext(ctx)).Records(ctx) {
		if err != nil {
			return err
		}
		if err := a.printRecord(out, r); err != nil {
			return err
		}
	}
	return out.Flush()
}

func (a *app) tailCommand() *cobra.Command {
	var follow bool
	var count int
	cmd := &cobra.Command{
		Use:   "tail [-f] [-n N] PATH",
		Short: "Print the payloads of the last framed records, one a line, each once",
		Args:  exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 0 || count > maxTailRecords {
				return usagef("-n %d: want 0 to %d records, or print all with cairn cat --records", count, maxTailRecords)
			}
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				end, err := a.tail(cmd.Context(), client, args[0], count)
				if err != nil || !follow {
					return err
				}
				for r, err := range client.Tail(cmd.Context(), args[0], end) {
					switch {
					case err != nil && cmd.Context().Err() != nil:
						return nil // the signal to stop
					case err != nil:
						return err
					}
					if err := a.printRecord(a.stdout, r); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is appended, until interrupted")
	cmd.Flags().IntVarP(&count, "lines", "n", 10, "print the last `N` records")
	return cmd
}

const (
	// maxTailRecords and maxTailBytes bound what tail keeps in memory until it knows which records are the last.
	maxTailRecords = 1_000_000
	maxTailBytes   = 256 << 20
	// firstTailBytes is how far before the end tail begins to look for records; twice as far each time it finds too few.
	firstTailBytes = 1 << 20
)

// tail prints the last count records of a file and returns the position behind them.
func (a *app) tail(ctx context.Context, client *clientlib.Client, name string, count int) (end record.Position, err error) {
	f, err := client.Open(ctx, name)
	if err != nil {
		return end, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat(ctx)
	if err != nil {
		return end, err
	}
	size := info.Size()
	if count == 0 {
		return record.PositionAt(size), nil
	}
	for back := int64(firstTailBytes); ; back *= 2 {
		reader := record.NewReader(f.WithContext(ctx))
		reader.SeekTo(record.PositionAt(size - back))
		last, err := lastRecords(ctx, reader, count)
		if err != nil {
			return end, fmt.Errorf("tail %s: %w", name, err)
		}
		if len(last) < count && back < size {
			continue
		}
		out := bufio.NewWriter(a.stdout)
		for _, r := range last {
			if err := a.printRecord(out, r); err != nil {
				return end, err
			}
		}
		return reader.Position(), out.Flush()
	}
}

// lastRecords reads to the end and keeps the last count records.
func lastRecords(ctx context.Context, reader *record.Reader, count int) ([]record.Record, error) {
	var last []record.Record
	kept := 0
	for r, err := range reader.Records(ctx) {
		if err != nil {
			return nil, err
		}
		if len(last) == count {
			kept -= len(last[0].Payload)
			last = last[1:]
		}
		if kept += len(r.Payload); kept > maxTailBytes {
			return nil, fmt.Errorf("the last %d records hold more than %s: ask for fewer, or print all with cairn cat --records", count, sizeText(maxTailBytes))
		}
		last = append(last, r.Clone())
	}
	return last, nil
}

// printRecord prints a record's payload as a line, or all that is known of it.
func (a *app) printRecord(out io.Writer, r record.Record) error {
	if !a.json {
		_, err := out.Write(append(r.Payload[:len(r.Payload):len(r.Payload)], '\n'))
		return err
	}
	return json.NewEncoder(out).Encode(struct {
		Offset  int64  `json:"offset"`
		Writer  string `json:"writer"`
		Seq     uint64 `json:"seq"`
		Payload []byte `json:"payload"` // base64
	}{r.Offset, fmt.Sprintf("%016x", r.Writer), r.Seq, r.Payload})
}

func (a *app) appendCommand() *cobra.Command {
	var raw, whole, verbose bool
	cmd := &cobra.Command{
		Use:   "append [--raw|--whole] [-v] PATH",
		Short: "Append each line of stdin as one record",
		Args:  exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if raw && whole {
				return usagef("--raw and --whole exclude each other")
			}
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				return a.append(cmd.Context(), client, args[0], appendMode{raw: raw, whole: whole, verbose: verbose})
			})
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "bare bytes, newline kept, instead of framed records")
	cmd.Flags().BoolVar(&whole, "whole", false, "all of stdin is one record")
	cmd.Flags().BoolVarP(&verbose, "verbose-offsets", "v", false, "print each record's offset as it is acknowledged")
	return cmd
}

type appendMode struct{ raw, whole, verbose bool }

// append is the command append: it creates the file if need be and ends when all is acknowledged.
func (a *app) append(ctx context.Context, client *clientlib.Client, name string, mode appendMode) (err error) {
	f, err := client.OpenFile(ctx, name, os.O_RDWR|os.O_CREATE|os.O_APPEND)
	if err != nil {
		return err
	}
	defer func() { err = closed(f, err) }()
	out := &offsets{out: bufio.NewWriter(a.stdout), json: a.json, wanted: mode.verbose}
	defer func() { err = errors.Join(err, out.out.Flush()) }()
	switch {
	case mode.whole:
		data, err := io.ReadAll(io.LimitReader(a.stdin, gfs.MaxRecordBytes+1))
		if err != nil {
			return err
		}
		out.asked.Add(1)
		offset, err := f.Append(ctx, data)
		if err == nil {
			out.acknowledged(offset)
		}
		return err
	case mode.raw:
		return a.appendRaw(ctx, f, out)
	default:
		return a.appendFramed(ctx, f, out)
	}
}

// offsets prints the offsets of acknowledged records, in their order, each as soon as nothing else is on its way: then
// nobody knows how long the next one will take.
type offsets struct {
	wanted, json bool
	asked        atomic.Int64 // records that were given to the file
	known        int64        // whose offset was printed
	out          *bufio.Writer
}

// acknowledged prints the next record's offset, one call at a time. A failure shows when out is flushed at the end.
func (o *offsets) acknowledged(offset int64) {
	if !o.wanted {
		return
	}
	if o.json {
		fmt.Fprintf(o.out, "{\"offset\":%d}\n", offset)
	} else {
		fmt.Fprintln(o.out, offset)
	}
	if o.known++; o.known == o.asked.Load() {
		_ = o.out.Flush() // the error stays for the last flush
	}
}

// maxLineBytes bounds a line: it must fit into one record with its frame.
const maxLineBytes = gfs.MaxRecordBytes - 1<<10

func (a *app) lines() *bufio.Scanner {
	lines := bufio.NewScanner(a.stdin)
	lines.Buffer(make([]byte, 64<<10), maxLineBytes)
	return lines
}

func scanError(lines *bufio.Scanner) error {
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("a line of stdin exceeds %d bytes: split it, or store it with cairn put", maxLineBytes)
	} else if err != nil {
		return fmt.Errorf("read stdin: %w", err)
	}
	return nil
}

// maxRawPending is how many bare lines are in flight at most.
const maxRawPending = 1024

// appendRaw appends bare lines; their acknowledgements are waited for beside, in order.
func (a *app) appendRaw(ctx context.Context, f *clientlib.File, out *offsets) error {
	pending := make(chan *clientlib.Pending, maxRawPending)
	broken, settled := make(chan struct{}), make(chan error, 1)
	go func() {
		var failure error
		for p := range pending {
			offset, err := p.Wait(ctx)
			switch {
			case failure != nil:
			case err != nil:
				failure = err
				close(broken)
			default:
				out.acknowledged(offset)
			}
		}
		settled <- failure
	}()
	lines := a.lines()
	for going := true; going && lines.Scan(); {
		out.asked.Add(1)
		pending <- f.AppendAsync(ctx, append(lines.Bytes(), '\n'))
		select {
		case <-broken:
			going = false
		default:
		}
	}
	close(pending)
	return errors.Join(<-settled, scanError(lines))
}

// appendFramed appends each line as a record of the record package, until the first that fails.
func (a *app) appendFramed(ctx context.Context, f *clientlib.File, out *offsets) error {
	var failed failures
	w := record.NewWriter(f, record.WithAck(func(_ uint64, offset int64, err error) {
		if err != nil {
			failed.add(err)
		} else {
			out.acknowledged(offset)
		}
	}))
	lines := a.lines()
	for failed.err() == nil && lines.Scan() {
		out.asked.Add(1)
		if err := w.Enqueue(ctx, lines.Bytes()); err != nil {
			return closed(w, err)
		}
	}
	closed := w.Close()
	if err := failed.err(); err != nil {
		return err // which is among what Close says
	}
	return errors.Join(scanError(lines), closed)
}

// failures keeps the first of many errors, which mostly are the same, and counts the others.
type failures struct {
	mu    sync.Mutex
	first error
	more  int
}

func (f *failures) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first == nil {
		f.first = err
		return
	}
	f.more++
}

// err is nil if nothing failed.
func (f *failures) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.more == 0 {
		return f.first
	}
	return fmt.Errorf("%w (and %d more lines were not acknowledged)", f.first, f.more)
}
