package main

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/cairnfs/cairn/clientlib"
)

// printJSON prints one object on one line.
func (a *app) printJSON(v any) error { return json.NewEncoder(a.stdout).Encode(v) }

// table prints rows in columns; cells are separated by tabs.
func (a *app) table(rows []string) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, row)
	}
	return w.Flush()
}

// entry is what ls and stat print of one file or directory.
type entry struct {
	Path     string    `json:"path"`
	Name     string    `json:"name"`
	Kind     string    `json:"kind"` // file or directory
	Size     int64     `json:"size"`
	Mode     string    `json:"mode"` // octal permission bits
	Owner    string    `json:"owner"`
	Group    string    `json:"group"`
	Replicas int       `json:"replicas,omitempty"`
	Chunks   int       `json:"chunks"`
	Modified time.Time `json:"modified"`
	ID       string    `json:"id"`
}

func newEntry(path string, info fs.FileInfo) entry {
	e := entry{
		Path: path, Name: info.Name(), Kind: "file", Size: info.Size(), Mode: fmt.Sprintf("%04o", info.Mode().Perm()),
		Modified: info.ModTime().UTC(),
	}
	if info.IsDir() {
		e.Kind = "directory"
	}
	if status, ok := info.Sys().(*clientlib.FileStatus); ok {
		e.Owner, e.Group, e.Replicas, e.Chunks = status.Owner, status.Group, status.Replicas, status.Chunks
		e.ID = fmt.Sprintf("%016x", uint64(status.ID))
	}
	return e
}

// row is the entry as a row of ls -l.
func (e entry) row(mode fs.FileMode) string {
	return strings.Join([]string{mode.String(), fmt.Sprint(e.Replicas), dash(e.Owner), dash(e.Group), fmt.Sprintf("%12d", e.Size), e.Modified.Local().Format("2006-01-02 15:04"), e.Path}, "\t")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// sizeText writes a number of bytes for people.
func sizeText(n int64) string {
	const units = "KMGTP"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), -1
	for value >= 1<<10 && unit < len(units)-1 {
		value /= 1 << 10
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}

// progressFrom is the size in bytes from which a transfer is worth a bar.
const progressFrom = 16 << 20

// progress shows bars of long transfers on a terminal, and nothing in a pipe.
type progress struct{ bars *mpb.Progress } // nil where none are shown

func (a *app) newProgress() *progress {
	f, ok := a.stderr.(*os.File)
	if !ok || a.json {
		return &progress{}
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return &progress{}
	}
	return &progress{bars: mpb.New(mpb.WithOutput(f), mpb.WithWidth(40))}
}

// reader counts what is read from r in a bar named name. Size is -1 where it is not known.
func (p *progress) reader(r io.Reader, name string, size int64) io.Reader {
	if p.bars == nil || size >= 0 && size < progressFrom {
		return r
	}
	bar := p.bars.AddBar(max(size, 0),
		mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.Name("  "), decor.AverageSpeed(decor.SizeB1024(0), "% .1f")),
		mpb.BarRemoveOnComplete(),
	)
	return bar.ProxyReader(r)
}

// wait draws the bars for the last time.
func (p *progress) wait() {
	if p.bars != nil {
		p.bars.Shutdown()
	}
}
