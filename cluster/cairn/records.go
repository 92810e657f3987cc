package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

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
	defer func() { err = errors.Join(err, f.Close()) }()
	out := bufio.NewWriter(a.stdout)
	defer func() { err = errors.Join(err, out.Flush()) }()
	switch {
	case mode.whole:
		data, err := io.ReadAll(io.LimitReader(a.stdin, gfs.MaxRecordBytes+1))
		if err != nil {
			return err
		}
		offset, err := f.Append(ctx, data)
		if err == nil && mode.verbose {
			a.printOffset(out, offset)
		}
		return err
	case mode.raw:
		return a.appendRaw(ctx, f, out, mode.verbose)
	default:
		return a.appendFramed(ctx, f, out, mode.verbose)
	}
}

// printOffset prints the offset of an acknowledged record. A failure shows when out, which is buffered, is flushed.
func (a *app) printOffset(out io.Writer, offset int64) {
	if a.json {
		fmt.Fprintf(out, "{\"offset\":%d}\n", offset)
		return
	}
	fmt.Fprintln(out, offset)
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

// appendRaw appends bare lines; their acknowledgements are waited for in order, a window behind.
func (a *app) appendRaw(ctx context.Context, f *clientlib.File, out io.Writer, verbose bool) error {
	const window = 1024 // records in flight
	var pending []*clientlib.Pending
	settle := func(keep int) error {
		for len(pending) > keep {
			offset, err := pending[0].Wait(ctx)
			if err != nil {
				return err
			}
			if verbose {
				a.printOffset(out, offset)
			}
			pending = pending[1:]
		}
		return nil
	}
	lines := a.lines()
	for lines.Scan() {
		pending = append(pending, f.AppendAsync(ctx, append(lines.Bytes(), '\n')))
		if err := settle(window); err != nil {
			return err
		}
	}
	return errors.Join(settle(0), scanError(lines))
}

// appendFramed appends each line as a record of the record package.
func (a *app) appendFramed(ctx context.Context, f *clientlib.File, out io.Writer, verbose bool) error {
	var failed error
	w := record.NewWriter(f, record.WithAck(func(_ uint64, offset int64, err error) {
		switch {
		case err != nil:
			failed = errors.Join(failed, err)
		case verbose:
			a.printOffset(out, offset)
		}
	}))
	lines := a.lines()
	for lines.Scan() {
		if err := w.Enqueue(ctx, lines.Bytes()); err != nil {
			return errors.Join(err, w.Close())
		}
	}
	return errors.Join(scanError(lines), w.Close(), failed)
}
