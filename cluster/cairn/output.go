package main

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

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
func (a *app) row(e entry, mode fs.FileMode) string {
	return strings.Join([]string{mode.String(), fmt.Sprint(e.Replicas), dash(a.name(e.Owner)), dash(a.name(e.Group)), fmt.Sprintf("%12d", e.Size),
		e.Modified.Local().Format("2006-01-02 15:04"), a.name(e.Path)}, "\t")
}

// printable is s with what a terminal would obey instead of showing it (control characters, changes of direction, bytes
// that are no UTF-8) written as Go escapes it.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if unicode.IsPrint(r) && (r != utf8.RuneError || n > 1) {
			b.WriteString(s[:n])
		} else {
			quoted := strconv.Quote(s[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[n:]
	}
	return b.String()
}

// name is a file's name or path for output: printable on a terminal, as it is in a pipe.
func (a *app) name(s string) string {
	if a.terminal {
		return printable(s)
	}
	return s
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
	if !ok || a.json || !isTerminal(f) {
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
