package house_test

import (
	"go/ast"
	"slices"
)

// cores are the folders that decide and do nothing: no goroutine, lock, clock, log or I/O. Then they can be tested
// exhaustively, replayed from a seed and reasoned about, which no shell around them can.
var cores = []string{
	"master/namespace", "master/lease", "master/registry", "master/placement", "master/scan",
	"chunkserver/mutation",
}

// pureBan is something that a core may not import or name.
type pureBan struct {
	what   string   // the import path; what is below it is banned too
	names  []string // of the package: empty means all
	except []string // names that are allowed although names is empty
	reason string
}

var pureBans = []pureBan{
	{"time", []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}, nil,
		"the time is an argument, so that a test or a simulation decides it"},
	{"math/rand", nil, []string{"New", "NewSource", "Rand", "Source"}, "randomness is an argument, so that a seed repeats a run"},
	{"math/rand/v2", nil, []string{"New", "NewPCG", "NewChaCha8", "Rand", "Source"}, "randomness is an argument, so that a seed repeats a run"},
	{"crypto/rand", nil, nil, "randomness is an argument, so that a seed repeats a run"},
	{"hash/maphash", nil, nil, "its seed differs in each process, so two masters would decide differently"},
	{"sync", nil, nil, "a core belongs to one actor: a lock would hide that it does not"},
	{"log", nil, nil, "what is worth a line comes back as a value; the shell logs it"},
	{"github.com/sirupsen/logrus", nil, nil, "what is worth a line comes back as a value; the shell logs it"},
	{"os", nil, nil, "a core does no I/O"},
	{"io/ioutil", nil, nil, "a core does no I/O"},
	{"syscall", nil, nil, "a core does no I/O"},
	{"golang.org/x/sys", nil, nil, "a core does no I/O"},
	{"net", nil, []string{"ParseIP", "SplitHostPort", "JoinHostPort", "IP"}, "a core opens no socket; addresses are only parsed"},
	{"fmt", []string{"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"}, nil, "a core does no I/O"},
	{"runtime", nil, nil, "a core's decisions do not depend on where it runs"},
}

// find reports each use of the banned names in one core's file.
func (b pureBan) find(t *tree, s *source) (found []finding) {
	s.inspect(func(node ast.Node) {
		target, name, ok := s.selected(node)
		if !ok || !within(target, b.what) || b.what == "math/rand" && target != b.what || target == "net/netip" {
			return
		}
		if len(b.names) > 0 && !slices.Contains(b.names, name) || slices.Contains(b.except, name) && target == b.what {
			return
		}
		found = append(found, t.at(s, node, "%s.%s in a pure core", target, name))
	})
	return found
}

// coreFindings calls find for each file of a core that is not a test.
func coreFindings(t *tree, find func(s *source) []finding) (found []finding) {
	for _, s := range t.written() {
		if within(s.dir, cores...) && !s.test {
			found = append(found, find(s)...)
		}
	}
	return found
}

func pureRules() (all []rule) {
	for _, b := range pureBans {
		name := "Anything"
		if len(b.names) > 0 {
			name = b.names[0]
		}
		use := func(name string) string {
			return "import x \"" + b.what + "\"\nvar _ = x." + name + "\n"
		}
		r := rule{
			name:   "pure cores without " + b.what,
			reason: b.reason,
			check:  func(t *tree) []finding { return coreFindings(t, func(s *source) []finding { return b.find(t, s) }) },
			keeps:  []snippet{{"master/oplog/a.go": use(name)}, {"master/lease/a_test.go": use(name)}},
		}
		for _, core := range cores {
			r.breaks = append(r.breaks, snippet{core + "/a.go": use(name)})
		}
		for _, name := range b.except {
			r.keeps = append(r.keeps, snippet{"master/lease/a.go": use(name)})
		}
		all = append(all, r)
	}
	all = append(all, rule{
		name:   "pure cores start nothing",
		reason: "a core runs in its caller's turn: no goroutine, no channel, nothing to wait for",
		check: func(t *tree) []finding {
			return coreFindings(t, func(s *source) (found []finding) {
				s.inspect(func(node ast.Node) {
					switch node.(type) {
					case *ast.GoStmt, *ast.SelectStmt, *ast.ChanType, *ast.SendStmt:
						found = append(found, t.at(s, node, "a goroutine or a channel in a pure core"))
					}
				})
				return found
			})
		},
		breaks: []snippet{
			{"master/lease/a.go": "func f() { go f() }"},
			{"master/scan/a.go": "func f(c <-chan int) {}"},
			{"chunkserver/mutation/a.go": "func f() { select {} }"},
		},
		keeps: []snippet{{"master/lease.go": "func f() { go f() }"}},
	})
	return all
}
