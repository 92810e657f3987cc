package lease

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cairnfs/cairn/master/placement"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts in testdata now give")

// TestScripts runs testdata/*.txt: each block is one input, then "----", then what comes out, then an empty line.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScript(t, file) })
	}
}

func runScript(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{now: time.Unix(1_000_000, 0), epoch: 2}
	var written strings.Builder
	scanner := bufio.NewScanner(strings.NewReader(string(text)))
	for line := 1; scanner.Scan(); line++ {
		input := scanner.Text()
		if input == "" || strings.HasPrefix(input, "#") {
			written.WriteString(input + "\n")
			continue
		}
		at := line
		got := s.run(strings.Fields(input))
		written.WriteString(input + "\n----\n" + got + "\n")
		var want strings.Builder
		for scanner.Scan() {
			line++
			if scanner.Text() == "" {
				break
			}
			if scanner.Text() != "----" {
				want.WriteString(scanner.Text() + "\n")
			}
		}
		if !*rewrite && want.String() != got {
			t.Fatalf("%s:%d: %s\ngot:\n%swant:\n%s", file, at, input, got, want.String())
		}
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(strings.TrimRight(written.String(), "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// script is one chunk under test.
type script struct {
	c        *Chunk
	now      time.Time
	epoch    gfs.Epoch
	attempts uint32
}

func (s *script) next() gfs.Version {
	s.attempts++
	return gfs.NewVersion(s.epoch, s.attempts)
}

func (s *script) run(args []string) string {
	options := map[string]string{}
	var words []string
	for _, arg := range args[1:] {
		if key, value, found := strings.Cut(arg, "="); found {
			options[key] = value
		} else {
			words = append(words, arg)
		}
	}
	s.do(args[0], words, options)
	return s.describe(s.c.Take())
}

func (s *script) do(command string, words []string, options map[string]string) {
	waiter := func() uint64 { n, _ := strconv.ParseUint(words[0], 10, 64); return n }
	switch command {
	case "chunk":
		acting, _ := time.ParseDuration(options["acting"])
		s.c = New(Config{Handle: 7, NextVersion: s.next, ActingSince: s.now.Add(-acting)}, Logged{
			Version: version(options["version"]), Members: number10(options["members"]), Open: options["open"] == "true",
			Replicas: number10(options["replicas"]),
		})
	case "create":
		s.c = New(Config{Handle: 7, NextVersion: s.next, ActingSince: s.now}, Logged{})
		var members []Member
		for id := range strings.SplitSeq(options["members"], ",") {
			members = append(members, member(id))
		}
		s.c.Create(waiter(), Place{File: 9, Index: 3, Replicas: len(members)}, members, options["reserve"] == "true", s.now)
	case "place":
		s.c.Place()
	case "created":
		s.c.CreateAnswered(gfs.ServerID(words[0]), version(words[1]), failure(options), s.now)
	case "want":
		failed, server, _ := strings.Cut(options["failed"], "@")
		s.c.Want(waiter(), version(failed), gfs.ServerID(server), s.now)
	case "located":
		var replicas []registry.Replica
		for _, word := range words {
			replicas = append(replicas, replica(word))
		}
		s.c.Located(replicas, s.now)
	case "prepared":
		state := gfs.ReplicaMember
		if options["state"] == "suspect" {
			state = gfs.ReplicaSuspect
		}
		if options["state"] == "learner" {
			state = gfs.ReplicaLearner
		}
		s.c.PrepareAnswered(gfs.ServerID(words[0]), version(words[1]), PrepareAnswer{
			Busy: options["busy"] == "true", Promised: version(words[1]), Active: version(options["active"]),
			Length: int64(number10(options["length"])), State: state, Digest: options["digest"], Err: failure(options),
		}, s.now)
	case "recorded":
		s.c.Recorded(failure(options), s.now)
	case "granted":
		s.c.GrantAnswered(gfs.ServerID(words[0]), version(words[1]), GrantAnswer{
			Busy: options["busy"] == "true", Accused: gfs.ServerID(options["accused"]), Length: int64(number10(options["length"])), Err: failure(options),
		}, s.now)
	case "lease":
		var members []placement.Server
		for id := range strings.SplitSeq(options["members"], ",") {
			members = append(members, member(id).Server)
		}
		s.c.LeaseReported(Held{Version: version(words[1]), Primary: member(words[0]), Members: members, Extend: options["extend"] == "true"}, s.now)
	case "report":
		s.c.Report(version(words[0]), gfs.ServerID(options["reporter"]), gfs.ServerID(options["accused"]), s.now)
	case "down":
		m := member(words[0])
		s.c.ServerDown(m.ID, m.Incarnation, s.now)
	case "close":
		s.c.CloseRequested(waiter(), version(words[1]), int64(number10(options["length"])), gfs.ServerID(options["server"]), s.now)
	case "seal":
		s.c.Seal(waiter(), s.now)
	case "close-ordered":
		s.c.CloseOrdered(gfs.ServerID(words[0]), version(words[1]), failure(options), s.now)
	case "probed":
		var silent []gfs.ServerID
		for _, word := range words[2:] {
			silent = append(silent, gfs.ServerID(word))
		}
		s.c.ProbeAnswered(gfs.ServerID(words[0]), version(words[1]), silent, failure(options), s.now)
	case "advance":
		d, _ := time.ParseDuration(words[0])
		s.now = s.now.Add(d)
		s.c.Tick(s.now)
	case "join":
		var sources []Member
		for _, word := range words[2:] {
			sources = append(sources, member(word))
		}
		s.c.Join(member(words[0]), version(words[1]), sources, s.now)
	case "cloned":
		s.c.CloneAnswered(gfs.ServerID(words[0]), version(words[1]), number10(options["differing"]), failure(options), s.now)
	case "revive":
		s.c.Revive(s.now)
	case "stop":
		s.c.Stop(gfs.Errorf(gfs.CodeNotActing, "stopped"))
	default:
		panic("unknown command " + command)
	}
}

func (s *script) describe(out Outputs) string {
	var b strings.Builder
	for _, n := range out.Notes {
		fmt.Fprintf(&b, "note %s active %s promised %s length %d %s", n.Server, n.Active, n.Promised, n.Length, n.State)
		if n.Marked {
			b.WriteString(" marked")
		}
		b.WriteString("\n")
	}
	for _, id := range out.Unreached {
		fmt.Fprintf(&b, "unreached %s\n", id)
	}
	if out.Revoked {
		b.WriteString("revoked\n")
	}
	if out.Granted {
		fmt.Fprintf(&b, "lease of %s at %s\n", s.c.Location().Version, s.c.Location().Primary)
	}
	if out.Locate {
		b.WriteString("locate\n")
	}
	if out.Record != nil {
		switch r := out.Record.GetCommand().(type) {
		case *pb.Record_PlaceChunk:
			fmt.Fprintf(&b, "record place file %d index %d version %s members %d\n", r.PlaceChunk.FileId, r.PlaceChunk.Index, gfs.Version(r.PlaceChunk.Version), r.PlaceChunk.Members)
		case *pb.Record_ConfigureChunk:
			fmt.Fprintf(&b, "record configure %s from %s members %d open %t", gfs.Version(r.ConfigureChunk.Version), gfs.Version(r.ConfigureChunk.FromVersion), r.ConfigureChunk.Members, r.ConfigureChunk.Open)
			if r.ConfigureChunk.UnsyncedLost {
				b.WriteString(" unsynced lost")
			}
			b.WriteString("\n")
		case *pb.Record_CloseChunk:
			fmt.Fprintf(&b, "record close %s length %d\n", gfs.Version(r.CloseChunk.Version), r.CloseChunk.Length)
		}
	}
	for _, o := range out.Orders {
		fmt.Fprintf(&b, "order %s %s %s", o.Kind, name(o.To), o.Version)
		if o.From != 0 {
			fmt.Fprintf(&b, " from %s", o.From)
		}
		if o.Joiner {
			b.WriteString(" joiner")
		}
		if o.Via.ID != "" {
			fmt.Fprintf(&b, " via %s", name(o.Via))
		}
		if o.Stream {
			b.WriteString(" stream")
		}
		if o.Source.ID != "" {
			fmt.Fprintf(&b, " source %s", o.Source.ID)
		}
		for _, m := range o.Members {
			fmt.Fprintf(&b, " %s", m.ID)
		}
		if o.Believe {
			b.WriteString(" believe")
		}
		for _, id := range o.Doubted {
			fmt.Fprintf(&b, " doubted %s", id)
		}
		b.WriteString("\n")
	}
	for _, a := range out.Answers {
		switch {
		case a.Err != nil:
			fmt.Fprintf(&b, "answer %d %v", a.Waiter, a.Err)
			if len(a.Failed) > 0 {
				fmt.Fprintf(&b, " failed %v", a.Failed)
			}
			b.WriteString("\n")
		case a.Location.Version == 0:
			fmt.Fprintf(&b, "answer %d ok\n", a.Waiter)
		default:
			fmt.Fprintf(&b, "answer %d version %s primary %s of %d\n", a.Waiter, a.Location.Version, a.Location.Primary, len(a.Location.Members))
		}
	}
	if out.Joined != nil {
		fmt.Fprintf(&b, "joined %s %v\n", out.Joined.Server, out.Joined.Err)
	}
	for _, e := range out.Events {
		fmt.Fprintf(&b, "event %s %s %s\n", e.Kind, e.Server, e.Detail)
	}
	fmt.Fprintf(&b, "%s", s.c.Phase())
	if !out.Wake.IsZero() {
		fmt.Fprintf(&b, ", wake in %s", out.Wake.Sub(s.now))
	}
	if out.Done {
		b.WriteString(", done")
	}
	return b.String() + "\n"
}

// The script's words: a server is a letter, perhaps with #incarnation; a version is epoch.attempt; a replica is
// server:active[/promised] and then words such as suspect or down.

func name(m Member) string {
	if m.Incarnation == 1 {
		return string(m.ID)
	}
	return fmt.Sprintf("%s#%d", m.ID, m.Incarnation)
}

func member(text string) Member {
	id, incarnation, found := strings.Cut(text, "#")
	if !found {
		incarnation = "1"
	}
	return Member{Server: placement.Server{ID: gfs.ServerID(id), Address: id + ":1"}, Incarnation: gfs.Incarnation(number10(incarnation))}
}

func version(text string) gfs.Version {
	epoch, attempt, found := strings.Cut(text, ".")
	if !found {
		return 0
	}
	return gfs.NewVersion(gfs.Epoch(number10(epoch)), uint32(number10(attempt)))
}

func number10(text string) int {
	n, _ := strconv.Atoi(text)
	return n
}

func replica(text string) registry.Replica {
	parts := strings.Split(text, ":")
	m := member(parts[0])
	active, promised, found := strings.Cut(parts[1], "/")
	if !found {
		promised = active
	}
	r := registry.Replica{
		Server: m.Server, Incarnation: m.Incarnation, Up: true, Active: version(active), Promised: version(promised), State: gfs.ReplicaMember,
	}
	for _, word := range parts[2:] {
		switch word {
		case "down":
			r.Up = false
		case "suspect":
			r.State = gfs.ReplicaSuspect
		case "learner":
			r.State = gfs.ReplicaLearner
		case "corrupt":
			r.State = gfs.ReplicaCorrupt
		}
	}
	return r
}

var codes = map[string]gfs.Code{
	"unavailable": gfs.CodeUnavailable, "unknown": gfs.CodeOutcomeUnknown, "stale-epoch": gfs.CodeStaleEpoch,
	"conflict": gfs.CodeConflict, "incarnation": gfs.CodeWrongIncarnation, "busy": gfs.CodeBusy, "not-exist": gfs.CodeNotExist,
	"no-space": gfs.CodeNoSpace, "stale-version": gfs.CodeStaleVersion,
}

func failure(options map[string]string) error {
	if text, failed := options["err"]; failed {
		return gfs.Errorf(codes[text], "%s", text)
	}
	return nil
}
