package main

import (
	"context"
	"fmt"
	"io/fs"
	"path"

	"github.com/spf13/cobra"

	"github.com/cairnfs/cairn/clientlib"
)

func (a *app) duCommand() *cobra.Command {
	var summary bool
	cmd := &cobra.Command{
		Use:   "du [-s] [PATH…]",
		Short: "Say how much files and directories hold",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"/"}
			}
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				d := adder{app: a, client: client, summary: summary, rows: []string{"SIZE\tSTORED\tFILES\tPATH"}}
				for _, name := range args {
					info, err := client.Stat(cmd.Context(), name)
					if err != nil {
						return err
					}
					total, err := d.add(cmd.Context(), name, info)
					if err != nil {
						return err
					}
					if summary || !info.IsDir() {
						if err := d.print(total); err != nil {
							return err
						}
					}
				}
				if a.json {
					return nil
				}
				return a.table(d.rows)
			})
		},
	}
	cmd.Flags().BoolVarP(&summary, "summarize", "s", false, "only the sum of each argument")
	return cmd
}

// holding is what du prints of one file or directory, with all that is below it.
type holding struct {
	Path        string `json:"path"`
	Bytes       int64  `json:"bytes"`
	StoredBytes int64  `json:"stored_bytes"` // bytes times the wanted replicas
	Files       int64  `json:"files"`
	Directories int64  `json:"directories"`
	Chunks      int64  `json:"chunks"`
}

// adder adds up directories for du.
type adder struct {
	*app
	client  *clientlib.Client
	summary bool
	rows    []string
}

// add sums up name, and prints every directory below it and itself unless only the summary is wanted.
func (d *adder) add(ctx context.Context, name string, info fs.FileInfo) (holding, error) {
	if !info.IsDir() {
		h := holding{Path: name, Bytes: info.Size(), Files: 1}
		if status, ok := info.Sys().(*clientlib.FileStatus); ok {
			h.StoredBytes, h.Chunks = h.Bytes*int64(status.Replicas), int64(status.Chunks)
		}
		return h, nil
	}
	sum := holding{Path: name, Directories: 1}
	for entry, err := range d.client.ReadDir(ctx, name) {
		if err != nil {
			return sum, err
		}
		info, err := entry.Info()
		if err != nil {
			return sum, err
		}
		h, err := d.add(ctx, path.Join(name, entry.Name()), info)
		if err != nil {
			return sum, err
		}
		sum.Bytes, sum.StoredBytes = sum.Bytes+h.Bytes, sum.StoredBytes+h.StoredBytes
		sum.Files, sum.Directories, sum.Chunks = sum.Files+h.Files, sum.Directories+h.Directories, sum.Chunks+h.Chunks
	}
	if d.summary {
		return sum, nil
	}
	return sum, d.print(sum)
}

func (d *adder) print(h holding) error {
	if d.json {
		return d.printJSON(h)
	}
	d.rows = append(d.rows, fmt.Sprintf("%s\t%s\t%d\t%s", sizeText(h.Bytes), sizeText(h.StoredBytes), h.Files, d.name(h.Path)))
	return nil
}

func (a *app) dfCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "df",
		Short: "Say how much room the chunkservers' disks have",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(client *clientlib.Client) error {
				info, err := client.StatFS(cmd.Context())
				if err != nil {
					return err
				}
				s := newSpace(info)
				if a.json {
					return a.printJSON(s)
				}
				return a.table([]string{
					"CLUSTER\tCAPACITY\tUSED\tFREE\tUSE\tFILES\tCHUNKS\tCHUNKSERVERS",
					fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d of %d up", a.cluster, sizeText(s.CapacityBytes), sizeText(s.UsedBytes), sizeText(s.FreeBytes),
						percent(s.CapacityBytes-s.FreeBytes, s.CapacityBytes), s.Files, s.Chunks, s.ChunkserversUp, s.Chunkservers),
				})
			})
		},
	}
}

// space is what df and admin status print of the whole file system. Bytes count every replica.
type space struct {
	CapacityBytes   int64 `json:"capacity_bytes"`
	UsedBytes       int64 `json:"used_bytes"`
	FreeBytes       int64 `json:"free_bytes"`
	Files           int64 `json:"files"`
	Directories     int64 `json:"directories"`
	Chunks          int64 `json:"chunks"`
	UnderReplicated int64 `json:"under_replicated"`
	Corrupt         int64 `json:"corrupt"`
	Missing         int64 `json:"missing"`
	ChunkserversUp  int   `json:"chunkservers_up"`
	Chunkservers    int   `json:"chunkservers"`
}

func newSpace(i clientlib.FSInfo) space {
	return space{
		CapacityBytes: i.CapacityBytes, UsedBytes: i.UsedBytes, FreeBytes: i.FreeBytes,
		Files: i.Files, Directories: i.Directories, Chunks: i.Chunks,
		UnderReplicated: i.UnderReplicated, Corrupt: i.Corrupt, Missing: i.Missing,
		ChunkserversUp: i.ChunkserversUp, Chunkservers: i.Chunkservers,
	}
}

// percent writes a part of a whole for people.
func percent(part, whole int64) string {
	if whole <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*float64(part)/float64(whole))
}
