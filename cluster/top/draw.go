package top

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cairnfs/cairn/clientlib"
)

// style is how a terminal shows a span: an SGR parameter.
type style string

const (
	plain  style = ""
	bold   style = "1"
	faint  style = "2"
	alarm  style = "1;31" // a person should act
	notice style = "33"   // the cluster is at work on it
)

type span struct {
	text  string
	style style
}

// line is spans side by side.
type line []span

// render is the line for a terminal, cut at width columns. A character that could move the cursor is shown as a dot.
func (l line) render(width int) string {
	var out strings.Builder
	for _, s := range l {
		text := []rune(strings.Map(printable, s.text))
		if len(text) > width {
			text = text[:width]
		}
		width -= len(text)
		switch {
		case len(text) == 0:
		case s.style == plain:
			out.WriteString(string(text))
		default:
			fmt.Fprintf(&out, "\x1b[%sm%s\x1b[0m", s.style, string(text))
		}
	}
	return out.String()
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '·'
}

// Draw is the view at a time as lines for a terminal, at most height of them, each at most width columns wide.
func (v *View) Draw(cluster string, now time.Time, width, height int) []string {
	s := v.Snapshot(cluster, now)
	lines := []line{v.title(s)}
	switch {
	case v.state.Err != nil:
		lines = append(lines, line{{"no answer: " + v.state.Err.Error(), alarm}})
	case !v.known:
		lines = append(lines, line{{"asking the master…", faint}})
	default:
		lines = append(lines, line{})
	}
	if v.known {
		lines = append(lines, health(s), space(s), load(s.Master), line{})
		lines = append(lines, servers(s, width, height-len(lines))...)
	}
	if room := height - len(lines) - 2; room > 0 && len(v.events) > 0 {
		lines = append(lines, line{}, line{{"LATEST EVENTS", faint}})
		for _, e := range v.events[max(0, len(v.events)-room):] {
			lines = append(lines, line{{EventLine(e), plain}})
		}
	}
	out := make([]string, 0, len(lines))
	for _, l := range lines[:min(len(lines), max(height, 0))] {
		out = append(out, l.render(width))
	}
	return out
}

func (v *View) title(s Snapshot) line {
	l := line{{"cairn " + s.Cluster, bold}}
	if v.known {
		up := 0
		for _, server := range s.Servers {
			if server.Up {
				up++
			}
		}
		state := plain
		if up < len(s.Servers) {
			state = alarm
		}
		l = append(l, span{fmt.Sprintf("   master %s, epoch %d   ", s.Master.ID, s.Master.Epoch), plain},
			span{fmt.Sprintf("%d of %d chunkservers up", up, len(s.Servers)), state})
	}
	return append(l, span{"   " + s.Time.Format(time.TimeOnly), faint})
}

func space(s Snapshot) line {
	full, state := "", plain
	if s.CapacityBytes > 0 {
		part := 100 * float64(s.CapacityBytes-s.FreeBytes) / float64(s.CapacityBytes)
		full = fmt.Sprintf("   disks %.0f%% full", part)
		if part >= 90 {
			state = alarm
		}
	}
	return line{
		{"space    ", faint}, {fmt.Sprintf("%s stored, %s free of %s", sizeText(float64(s.UsedBytes)), sizeText(float64(s.FreeBytes)), sizeText(float64(s.CapacityBytes))), plain},
		{full, state},
	}
}

func health(s Snapshot) line {
	count := func(n int64, what string, bad style) span {
		if n == 0 {
			bad = plain
		}
		return span{fmt.Sprintf("%d %s", n, what), bad}
	}
	return line{
		{"chunks   ", faint}, {fmt.Sprintf("%d  ", s.Chunks), plain}, count(s.Missing, "missing", alarm), {"  ", plain},
		count(s.Corrupt, "corrupt", alarm), {"  ", plain}, count(s.UnderReplicated, "under-replicated", notice),
		{fmt.Sprintf("  in %s, %s", plural(s.Files, "file", "files"), plural(s.Directories, "directory", "directories")), plain},
	}
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func load(m MasterSnapshot) line {
	return line{
		{"master   ", faint},
		{fmt.Sprintf("%s requests/s, %s mutations/s   %s leases   log %s   memory %s", number(m.RequestsPerSecond), number(m.MutationsPerSecond),
			number(m.LeasesHeld), size(m.LogBytes), size(m.HeapBytes)), plain},
	}
}

// column is one of the table of chunkservers. Those of the highest number are left out first where there is little room.
type column struct {
	title string
	width int // negative: to the left
	leave int
	cell  func(ServerSnapshot) string
}

// columns are those of the table that fit into width.
func columns(width int) []column {
	all := [...]column{
		{"CHUNKSERVER", -16, 0, func(s ServerSnapshot) string { return clip(s.ID, 16) }},
		{"STATE", -5, 0, func(s ServerSnapshot) string {
			if s.Up {
				return "up"
			}
			return "DOWN"
		}},
		{"HEARD", 6, 5, func(s ServerSnapshot) string { return age(time.Duration(s.LastHeardMS) * time.Millisecond) }},
		{"RACK", -10, 4, func(s ServerSnapshot) string { return clip(s.Rack, 10) }},
		{"STORED", 10, 2, func(s ServerSnapshot) string { return sizeText(float64(s.UsedBytes)) }},
		{"FREE", 10, 1, func(s ServerSnapshot) string { return sizeText(float64(s.FreeBytes)) }},
		{"CHUNKS", 7, 3, func(s ServerSnapshot) string { return fmt.Sprint(s.Chunks) }},
		{"LEASES", 6, 6, func(s ServerSnapshot) string { return fmt.Sprint(s.Leases) }},
		{"IN FLIGHT", 9, 7, func(s ServerSnapshot) string { return number(s.InFlight) }},
		{"READ/S", 10, 0, func(s ServerSnapshot) string { return size(s.ReadBytesPerSecond) }},
		{"WRITTEN/S", 10, 0, func(s ServerSnapshot) string { return size(s.WriteBytesPerSecond) }},
		{"MUTATIONS/S", 11, 8, func(s ServerSnapshot) string { return number(s.MutationsPerSecond) }},
	}
	for leave := len(all); ; leave-- {
		var fit []column
		total := -len(gap)
		for _, c := range all {
			if c.leave <= leave {
				fit, total = append(fit, c), total+len(gap)+max(c.width, -c.width)
			}
		}
		if total <= width || leave == 0 {
			return fit
		}
	}
}

// gap is between columns.
const gap = "  "

// servers is the table of chunkservers, in at most room lines.
func servers(s Snapshot, width, room int) []line {
	fit := columns(width)
	row := func(cell func(column) string) string {
		var cells []string
		for _, c := range fit {
			cells = append(cells, fmt.Sprintf("%*s", c.width, cell(c)))
		}
		return strings.Join(cells, gap)
	}
	lines := []line{{{row(func(c column) string { return c.title }), faint}}}
	for i, server := range s.Servers {
		if left := len(s.Servers) - i; len(lines) >= room-1 && left > 1 {
			return append(lines, line{{fmt.Sprintf("and %d more: cairn admin servers lists all", left), faint}})
		}
		style := plain
		if !server.Up {
			style = alarm
		}
		lines = append(lines, line{{row(func(c column) string { return c.cell(server) }), style}})
	}
	return lines
}

// EventLine is an event as a line of text.
func EventLine(e clientlib.Event) string {
	l := fmt.Sprintf("%s  %-18s", e.Time.Format("15:04:05.000"), e.Kind)
	for _, f := range []struct{ name, value string }{
		{"", e.Path}, {"server ", e.Server}, {"chunk ", e.Chunk}, {"version ", e.Version}, {"", e.Detail},
	} {
		if f.value != "" {
			l += "  " + f.name + f.value
		}
	}
	return strings.Map(printable, l)
}

// age writes a duration in six columns.
func age(d time.Duration) string {
	switch {
	case d < 100*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < 100*time.Minute:
		return fmt.Sprintf("%.0fm", d.Minutes())
	}
	return fmt.Sprintf("%.0fh", min(d.Hours(), 99999))
}

func clip(s string, columns int) string {
	if s == "" {
		return "-"
	}
	if utf8.RuneCountInString(s) <= columns {
		return s
	}
	return string([]rune(s)[:columns-1]) + "…"
}

// number writes what may not be known.
func number(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v >= 1e6:
		return fmt.Sprintf("%.1fM", *v/1e6)
	case *v >= 1e4:
		return fmt.Sprintf("%.1fk", *v/1e3)
	}
	return fmt.Sprintf("%.0f", *v)
}

func size(v *float64) string {
	if v == nil {
		return "-"
	}
	return sizeText(*v)
}

// sizeText writes a number of bytes in at most ten columns.
func sizeText(n float64) string {
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	unit := 0
	for n >= 999.95 && unit < len(units)-1 {
		n /= 1 << 10
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%.0f B", n)
	}
	return fmt.Sprintf("%.1f %s", n, units[unit])
}
