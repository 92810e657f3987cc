package main

import (
	"bufio"
	"bytes"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cairnfs/cairn/clientlib"
)

func TestWhatATerminalWouldObeyIsEscaped(t *testing.T) {
	for in, want := range map[string]string{
		"/plain ü 漢":       "/plain ü 漢",
		"/a\x1b[31mred":    `/a\x1b[31mred`,
		"/a\tb\r\n":        `/a\tb\r\n`,
		"/evil\u202etxt.":  `/evil\u202etxt.`,
		"/not utf8 \xff\n": `/not utf8 \xff\n`,
		`/a\b"c'`:          `/a\b"c'`,
	} {
		if got := printable(in); got != want {
			t.Errorf("%q is shown as %s, want %s", in, got, want)
		}
	}
	s, _ := newShell(t)
	if status, _, stderr := s.try(nil, "ls", "/a\x1b[31m\u202e"); status == 0 || strings.ContainsAny(stderr, "\x1b\u202e") || !strings.Contains(stderr, `\x1b[31m\u202e`) {
		t.Errorf("status %d, stderr %q", status, stderr)
	}
	s.append("/rtl\u202e", "")
	if got := s.must("ls", "/"); got != "rtl\u202e\n" {
		t.Errorf("in a pipe ls prints %q", got)
	}
	s.must("rm", "/rtl\u202e")
	s.append("/rtl\u202e", "")
	client, err := clientlib.Connect(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var out bytes.Buffer
	a := &app{stdout: &out, terminal: true}
	if err := a.listTrash(t.Context(), client, "/"); err != nil {
		t.Fatal(err)
	}
	du := adder{app: a, client: client}
	if err := du.print(holding{Path: "/rtl\u202e"}); err != nil {
		t.Fatal(err)
	}
	if err := a.printLocations([]clientlib.ChunkLocation{{Servers: []clientlib.Server{{Rack: "rtl\u202e"}}}}); err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string]string{"ls": a.name("rtl\u202e"), "du": strings.Join(du.rows, ""), "trash ls and locate": out.String()} {
		if !strings.Contains(got, `rtl\u202e`) || strings.Contains(got, "\u202e") {
			t.Errorf("on a terminal %s prints %q", what, got)
		}
	}
	if strings.Count(out.String(), `rtl\u202e`) != 2 {
		t.Errorf("trash ls and locate print %q", out.String())
	}
}

// TestOffsetsArePrintedAsTheyAreAcknowledged gives one line at a time and the next only when the offset was printed.
func TestOffsetsArePrintedAsTheyAreAcknowledged(t *testing.T) {
	s, _ := newShell(t)
	for _, raw := range []bool{false, true} {
		stdin, feed := io.Pipe()
		printed, stdout := io.Pipe()
		args := []string{"--nats", s.url, "append", "-v", "/log" + strconv.FormatBool(raw)}
		if raw {
			args = append(args, "--raw")
		}
		done := make(chan int, 1)
		go func() {
			done <- run(t.Context(), args, stdin, stdout, io.Discard)
			_ = stdout.Close()
		}()
		lines := make(chan string)
		go func() {
			for r := bufio.NewScanner(printed); r.Scan(); {
				lines <- r.Text()
			}
			close(lines)
		}()
		for i := range 3 {
			if _, err := io.WriteString(feed, "a line\n"); err != nil {
				t.Fatal(err)
			}
			select {
			case line := <-lines:
				if offset, err := strconv.Atoi(line); err != nil || (offset == 0) != (i == 0) {
					t.Errorf("line %d: offset %q", i, line)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("raw %t: the offset of line %d is not printed while stdin waits", raw, i)
			}
		}
		_ = feed.Close()
		if line, more := <-lines; more {
			t.Errorf("more than three offsets: %q", line)
		}
		if status := <-done; status != 0 {
			t.Errorf("status %d", status)
		}
	}
}
