package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/master"
	"github.com/cairnfs/cairn/master/backup"
)

// backupFacts is what admin backup and admin restore print.
type backupFacts struct {
	Cluster string    `json:"cluster"`
	Master  string    `json:"master"` // that made the backup
	Made    time.Time `json:"made"`
	Index   uint64    `json:"log_index"`
	Epoch   uint32    `json:"epoch"`
	Bytes   int64     `json:"bytes"`
	Files   int       `json:"files,omitempty"` // known when it is restored
	Chunks  int       `json:"chunks,omitempty"`
}

func newBackup(h backup.Header) backupFacts {
	return backupFacts{Cluster: h.Cluster, Master: h.Master, Made: h.Made.UTC(), Index: h.Index, Epoch: uint32(h.Epoch)}
}

func (a *app) backupCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Write the master's metadata to FILE, - for stdout, while the cluster goes on",
		Args:  exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				if args[0] == "-" {
					_, err := fetchBackup(cmd.Context(), client, a.stdout)
					return err
				}
				facts, err := backupTo(cmd.Context(), client, args[0])
				switch {
				case err != nil:
					return err
				case a.json:
					return a.printJSON(facts)
				}
				_, err = fmt.Fprintf(a.stdout, "%s: cluster %s as of %s, operation log at %d, epoch %d, %s\n",
					args[0], facts.Cluster, facts.Made.Local().Format(time.DateTime), facts.Index, facts.Epoch, sizeText(facts.Bytes))
				return err
			})
		},
	}
}

// backupTo makes the file, whole or not at all.
func backupTo(ctx context.Context, client *clientlib.Client, name string) (facts backupFacts, err error) {
	f, err := os.Create(name + ".tmp")
	if err != nil {
		return facts, err
	}
	facts, err = fetchBackup(ctx, client, f)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return facts, errors.Join(err, os.Remove(f.Name()))
	}
	folder, err := os.Open(filepath.Dir(name))
	if err != nil {
		return facts, err
	}
	return facts, errors.Join(folder.Sync(), folder.Close())
}

// fetchBackup writes a backup to w and reads it at the same time, as a restoration would: one that cannot be read is an
// error now and not on the day when it is needed.
func fetchBackup(ctx context.Context, client *clientlib.Client, w io.Writer) (facts backupFacts, err error) {
	out, in := io.Pipe()
	read := make(chan error, 1)
	go func() {
		header, pages, err := backup.Read(out)
		if err == nil {
			facts = newBackup(header)
			for _, pageErr := range pages {
				err = errors.Join(err, pageErr)
			}
		}
		out.CloseWithError(err)
		read <- err
	}()
	counted := &counter{w: w}
	err = client.Backup(ctx, io.MultiWriter(counted, in))
	in.CloseWithError(err)
	if readErr := <-read; err == nil {
		err = readErr
	}
	facts.Bytes = counted.bytes
	return facts, err
}

// counter counts what is written.
type counter struct {
	w     io.Writer
	bytes int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.bytes += int64(n)
	return n, err
}

func (a *app) restoreCommand() *cobra.Command {
	cfg := master.RestoreConfig{}
	var peers []string
	cmd := &cobra.Command{
		Use:   "restore FILE --data DIR [--id ID] [--peers ID=HOST:PORT,…]",
		Short: "Make the folder of a master that does not run from a backup, - for stdin",
		Long: `Make the folder of a master that does not run from a backup, - for stdin.

Every master of a group is restored, each with its own --id and --data and the same FILE and --peers, before the first of
them is started. All chunkservers should run by then: what they hold tells the master what happened after the backup.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cfg.Dir == "" {
				return usagef("which folder? Use %s", cmd.UseLine())
			}
			if len(peers) > 0 && cfg.ID == "" {
				return usagef("one of several masters needs --id: %s", cmd.UseLine())
			}
			var err error
			if cfg.Peers, err = parsePeers(cfg.ID, peers, true); err != nil { // nothing listens here
				return err
			}
			from := a.stdin
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer func() { _ = f.Close() }() // only read
				from = f
			}
			cfg.Cluster, cfg.Now = a.cluster, time.Now()
			counted := &counter{w: io.Discard}
			restored, err := master.Restore(cfg, io.TeeReader(from, counted))
			if err != nil {
				return err
			}
			facts := newBackup(restored.Header)
			facts.Bytes, facts.Files, facts.Chunks = counted.bytes, restored.Counts.Files, restored.Counts.Chunks
			if a.json {
				return a.printJSON(facts)
			}
			_, err = fmt.Fprintf(a.stdout, "%s: cluster %s as of %s, %d files with %d chunks; start the chunkservers, restore the other masters if there are any, then start the masters\n",
				cfg.Dir, facts.Cluster, facts.Made.Local().Format(time.DateTime), facts.Files, facts.Chunks)
			return err
		},
	}
	cmd.Flags().StringVar(&cfg.ID, "id", "", "the master's `ID` (the one that made the backup)")
	cmd.Flags().StringVar(&cfg.Dir, "data", "", "make `DIR`, which must be empty or not there")
	cmd.Flags().StringSliceVar(&peers, "peers", nil, "the 3 or 5 masters of the group, as `ID=HOST:PORT`,…, as cairn master gets them")
	return cmd
}
