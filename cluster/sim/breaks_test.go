package sim

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var breaksFlag = flag.Int("sim.breaks", 0, "take each rule out of the code and run its seed; where that does not see it, look for another among so many")

// edit is one change of a source file, named from the root of the repository. The old text stands there once.
type edit struct{ file, old, new string }

// broken is a rule taken out of the code, and the seed and the checker that find it.
type broken struct {
	rule    string
	edits   []edit
	seed    uint64
	checker string
}

// breaks are the rows of the table "Rules taken out" in cluster/docs/reliability.md, by what they are about.
var breaks = []struct {
	about string
	rows  []broken
}{
	{"leases", leaseBreaks},
	{"disks", diskBreaks},
	{"pushes", pushBreaks},
	{"files", fileBreaks},
}

// leaseBreaks take out what holds of leases, configurations and mutations.
var leaseBreaks = []broken{
	{
		rule: "version check", seed: 23, checker: checkVersions,
		edits: []edit{
			{"chunkserver/chunk_secondary.go", `promised != version {`, `false && promised != version {`},
			{"chunkserver/store/replica.go", `if next.promised != v {`, `if false {`},
		},
	},
	{
		rule: "drain", seed: 53, checker: checkPanic,
		edits: []edit{{"chunkserver/chunk_actor.go", "if c.draining == nil {\n\t\tf()", "if true {\n\t\tf()"}},
	},
	{
		rule: "told = answered", seed: 1, checker: checkDurable,
		edits: []edit{
			{"master/lease/attempt.go", "c.leaveOutTold(t, \"is silent\")\n\t\t\tagain = true", "t.drop()"},
			{"master/lease/attempt.go", "if t.joiner && !a.equal(t) {", "if t.dropped || t.joiner && !a.equal(t) {"},
		},
	},
	{
		rule: "Prepare names the logged version", seed: 3, checker: checkSettled,
		edits: []edit{{"chunkserver/store/replica.go", "next.active = from\n", "_ = from\n"}},
	},
	{
		rule: "bytes beyond the length", seed: 1120, checker: checkSettled,
		edits: []edit{{"chunkserver/store/write.go", "if c.torn || c.size > c.sums.length || c.allocated > c.sums.length {", "if false {"}},
	},
	{
		rule: "intent", seed: 3, checker: checkSettled,
		edits: []edit{{"chunkserver/store/write.go", "if err := r.append(c, &c.entry); err != nil {\n\t\treturn err\n\t}\n\tif err := r.replace(", "if err := r.replace("}},
	},
	{
		rule: "promised persisted before the answer", seed: 3, checker: checkVersions,
		edits: []edit{{"chunkserver/store/replica.go", "if err := r.dir.commit(rowChange(r.handle, next.noted(unsynced))); err != nil {\n\t\treturn err\n\t}\n\tr.install(next)", "r.dir.index.later(rowChange(r.handle, next.noted(unsynced)))\n\tr.install(next)"}},
	},
	{
		rule: "serial gap", seed: 344, checker: checkDurable,
		edits: []edit{{"chunkserver/mutation/secondary.go", "if first != s.last+1 {", "if first <= s.last {"}},
	},
	{
		rule: "commit length", seed: 5, checker: checkDurable,
		edits: []edit{
			{"chunkserver/dataplane/read.go", "from = min(q.Offset, status.CommitLength)\n\tto = min(from+min(q.Length, gfs.MaxReadBytes), status.CommitLength)", "from = min(q.Offset, status.Length)\n\tto = min(from+min(q.Length, gfs.MaxReadBytes), status.Length)"},
			{"chunkserver/store/read.go", "state, length, commit := r.state(), r.row.length, r.row.commit\n\tr.mu.RUnlock()\n\tswitch {\n\tcase state == gfs.ReplicaLearner", "state, length, commit := r.state(), r.row.length, r.row.length\n\tr.mu.RUnlock()\n\tswitch {\n\tcase state == gfs.ReplicaLearner"},
		},
	},
	{
		rule: "joiner equality", seed: 5, checker: checkDurable,
		edits: []edit{{"chunkserver/chunk_secondary.go", "if bytes.Equal(sum[:], open.Digest) && len(", "if true || bytes.Equal(sum[:], open.Digest) && len("}},
	},
	{
		rule: "epoch check", seed: 514, checker: checkEpoch,
		edits: []edit{
			{"chunkserver/orders.go", "case epoch < known:", "case false:"},
			{"chunkserver/orders.go", "case epoch == known:", "case epoch <= known:"},
			{"chunkserver/store/replica.go", "if epoch := r.store.Epoch(); v.Epoch() < epoch {\n\t\treturn gfs.Errorf(gfs.CodeStaleEpoch, \"version %s of chunk %s: epoch %d was heard\", v, r.handle, epoch)\n\t}\n\tr.write.Lock()\n\tdefer r.write.Unlock()\n\tif promised := r.snapshotRow().promised; v <= promised {", "r.write.Lock()\n\tdefer r.write.Unlock()\n\tif promised := r.snapshotRow().promised; v <= promised {"},
		},
	},
	{
		rule: "granted once", seed: 7, checker: checkConfiguration,
		edits: []edit{{"master/lease/attempt.go", "case len(s.tell) > 0:\n\t\tc.prepare(append(s.tell, s.relay...), false, now)", `case len(s.tell) > 0 && c.logged.Open && c.primary.ID == "" && c.episode.attempts == 0:
		c.episode.attempts++
		c.attempt = attempt{version: c.logged.Version, primary: Member{Server: s.tell[0].Server, Incarnation: s.tell[0].Incarnation}}
		for _, r := range s.tell {
			c.attempt.told = append(c.attempt.told, told{replica: r})
			c.attempt.members = append(c.attempt.members, r.Server)
		}
		c.phase, c.deadline, c.attempt.granted = Granting, now.Add(GrantTimeout), now
		c.out.Orders = append(c.out.Orders, Order{Kind: Grant, To: c.attempt.primary, Version: c.logged.Version, Members: c.attempt.members})
	case len(s.tell) > 0:
		c.prepare(append(s.tell, s.relay...), false, now)`}},
	},
	{
		rule: "incarnation", seed: 2411, checker: checkConfiguration,
		edits: []edit{{"chunkserver/orders.go", "case gfs.Incarnation(header.GetIncarnation()) != cs.cfg.Incarnation:", "case false:"}},
	},
}

const root = "../.." // of the repository

// source is the text of a file with the edits of it made.
func source(t *testing.T, file string, edits []edit) string {
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	s := string(text)
	for _, e := range edits {
		if e.file != file {
			continue
		}
		if n := strings.Count(s, e.old); n != 1 {
			t.Fatalf("%s has this %d times, want once: write the break anew\n%s", file, n, e.old)
		}
		s = strings.Replace(s, e.old, e.new, 1)
	}
	return s
}

// TestBreaksAreOfTheCode keeps the breaks, and the table that tells of them, up with the code.
func TestBreaksAreOfTheCode(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "cluster/docs/reliability.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, part, _ := strings.Cut(string(page), "\n## Rules taken out\n")
	part, _, _ = strings.Cut(part, "\n## ")
	rows := map[string]string{}
	for line := range strings.Lines(part) {
		if cells := strings.Split(strings.TrimSpace(line), " | "); len(cells) == 4 {
			rows[strings.TrimPrefix(cells[0], "| ")] = cells[2] + " | " + cells[3]
		}
	}
	for _, group := range breaks {
		for _, b := range group.rows {
			for _, e := range b.edits {
				source(t, e.file, b.edits)
			}
			if want := fmt.Sprintf("%d | %s |", b.seed, b.checker); rows[b.rule] != want {
				t.Errorf("reliability.md says of %q: %q, want %q", b.rule, rows[b.rule], want)
			}
			delete(rows, b.rule)
		}
	}
	delete(rows, "rule")
	delete(rows, "---")
	for rule := range rows {
		t.Errorf("reliability.md says of %q what no break here shows", rule)
	}
}

// TestBreaksAreCaught takes one rule after the other out of the code, which takes a build each.
func TestBreaksAreCaught(t *testing.T) {
	if *breaksFlag == 0 {
		return
	}
	for _, group := range breaks {
		t.Run(group.about, func(t *testing.T) {
			for _, b := range group.rows {
				t.Run(b.rule, b.isCaught)
			}
		})
	}
}

// isCaught runs the seed that finds a break. Where it does not, it looks for another one.
func (b broken) isCaught(t *testing.T) {
	program := b.build(t)
	out, err := exec.Command(program, "-test.run", "TestSim$", "-sim.seed", fmt.Sprint(b.seed)).CombinedOutput() //nolint:gosec // what was built above
	if err != nil && strings.Contains(string(out), b.checker+": at ") {
		return
	}
	t.Errorf("seed %d and %q do not see it:\n%s", b.seed, b.checker, head(out))
	out, _ = exec.Command(program, "-test.run", "TestSim$", "-sim.seeds", fmt.Sprint(*breaksFlag), "-test.timeout", "1h").CombinedOutput() //nolint:gosec // what was built above
	t.Logf("of %d seeds from 1 on:\n%s", *breaksFlag, head(out))
}

// build makes the tests of this package from the code with the break in it, and leaves the files as they are.
func (b broken) build(t *testing.T) (program string) {
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for i, e := range b.edits {
		path, err := filepath.Abs(filepath.Join(root, e.file))
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(dir, fmt.Sprint(i)+".go")
		if err := os.WriteFile(copied, []byte(source(t, e.file, b.edits)), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[path] = copied
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, text, 0o600); err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(dir, "broken.test")
	if out, err := exec.Command("go", "test", "-c", "-vet=off", "-overlay", list, "-o", program, ".").CombinedOutput(); err != nil { //nolint:gosec // the go command
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// head is the beginning of what a program printed, which names the failure; steps and traces follow.
func head(out []byte) []byte { return out[:min(len(out), 400)] }
