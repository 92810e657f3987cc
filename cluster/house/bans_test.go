package house_test

import (
	"go/ast"
	"slices"
	"strings"
)

// ban is a use of imported names that stands only in some folders.
type ban struct {
	name   string
	what   []string // import paths
	names  []string // of those packages; one ending in * means all that begin so
	except []string // of those
	where  []string // folders it concerns: empty means all
	allow  []string // folders or files where it may stand
	tests  bool     // tests may
	mains  bool     // main packages may
	reason string
}

// levels are no functions, though they are named as if.
var levels = []string{"TraceLevel", "DebugLevel", "InfoLevel", "WarnLevel", "ErrorLevel", "FatalLevel", "PanicLevel", "ErrorKey"}

var bans = []ban{
	{
		name: "sockets", what: []string{"net", "crypto/tls", "net/http"},
		names: []string{"Listen*", "Dial*", "FileListener", "FileConn"}, except: []string{"Listener"},
		where: []string{"messages", "actors", "master", "chunkserver", "clientlib/record"},
		allow: []string{"chunkserver/dataplane", "master/oplog", "actors/bus"}, tests: true,
		reason: "one place of each part talks to the network, where deadlines and bounds are kept; others are given a dialer or listener",
	},
	{
		name: "exit", what: []string{"os", "log", "github.com/sirupsen/logrus"}, names: []string{"Exit", "Fatal*", "Panic*"}, except: levels,
		allow: []string{"actors/system.go"}, tests: true, mains: true,
		reason: "who is linked into a program does not end it. The kit's crash default may: a panic in an actor is a bug that must not run on",
	},
	{
		name: "global loggers", what: []string{"log"}, names: []string{"Print*", "Output", "Default", "Set*", "Writer"}, tests: true, mains: true,
		reason: "loggers are injected",
	},
	{
		name: "global logrus", what: []string{"github.com/sirupsen/logrus"},
		names:  []string{"Trace*", "Debug*", "Info*", "Print*", "Warn*", "Error*", "With*", "StandardLogger", "Set*", "AddHook"},
		except: levels, tests: true,
		reason: "loggers are injected: a global one mixes the parts of a cluster in one process",
	},
	{
		name: "global slog", what: []string{"log/slog"}, names: []string{"Debug*", "Info*", "Warn*", "Error*", "Default", "SetDefault", "With"},
		reason: "loggers are injected: a global one mixes the parts of a cluster in one process",
	},
	{
		name: "global HTTP", what: []string{"net/http"}, names: []string{"DefaultServeMux", "DefaultClient", "Handle", "HandleFunc", "Get", "Post", "Head", "PostForm"},
		reason: "the default mux is shared by all parts of a process, and the default client never times out",
	},
	{
		name: "working directory", what: []string{"os"}, names: []string{"Chdir", "Setenv", "Unsetenv", "Clearenv"},
		reason: "they change the whole process under everybody's feet; tests have t.Chdir and t.Setenv",
	},
	{
		name: "context.TODO", what: []string{"context"}, names: []string{"TODO"},
		reason: "a context is handed down; Background stands only where a life begins",
	},
}

func (b ban) matches(name string) bool {
	if slices.Contains(b.except, name) {
		return false
	}
	return slices.ContainsFunc(b.names, func(pattern string) bool {
		prefix, open := strings.CutSuffix(pattern, "*")
		return name == pattern || open && strings.HasPrefix(name, prefix)
	})
}

func (b ban) find(t *tree) (found []finding) {
	for _, s := range t.written() {
		if len(b.where) > 0 && !within(s.dir, b.where...) || within(s.dir, b.allow...) || slices.Contains(b.allow, s.path) ||
			b.tests && s.test || b.mains && s.file.Name.Name == "main" {
			continue
		}
		s.inspect(func(node ast.Node) {
			if target, name, ok := s.selected(node); ok && slices.Contains(b.what, target) && b.matches(name) {
				found = append(found, t.at(s, node, "%s.%s", target, name))
			}
		})
	}
	return found
}

func banRules() (all []rule) {
	for _, b := range bans {
		name := strings.TrimSuffix(b.names[0], "*")
		use := func(name string) string { return "import x \"" + b.what[0] + "\"\nfunc f() { x." + name + "() }\n" }
		r := rule{
			name: "no " + b.name, reason: b.reason, check: b.find,
			breaks: []snippet{{"clientlib/record/a.go": use(name)}, {"master/a.go": "package master\n" + use(name)}},
		}
		for _, place := range b.allow {
			r.keeps = append(r.keeps, snippet{fileIn(place): use(name)})
		}
		for _, name := range b.except {
			r.keeps = append(r.keeps, snippet{"master/a.go": use(name)})
		}
		if b.mains {
			r.keeps = append(r.keeps, snippet{"cluster/cairn/a.go": "package main\n" + use(name)})
		}
		if b.tests {
			r.keeps = append(r.keeps, snippet{"master/a_test.go": use(name)})
		} else {
			r.breaks = append(r.breaks, snippet{"master/a_test.go": use(name)})
		}
		all = append(all, r)
	}
	return append(all, receiveRule(), fatalRule(), initRule(), sleepRule(), skipRule(), leakRule(), todoRule())
}

func receiveRule() rule {
	return rule{
		name:   "one Receive",
		reason: "commands are typed, Command[S] with Do(S): a second Receive would bring back messages that compile and are not understood",
		check: func(t *tree) (found []finding) {
			count := 0
			for _, s := range t.written() {
				for _, decl := range s.file.Decls {
					fn, ok := decl.(*ast.FuncDecl)
					if !ok || fn.Name.Name != "Receive" || len(fn.Type.Params.List) != 1 {
						continue
					}
					target, name, ok := s.selected(fn.Type.Params.List[0].Type)
					if !ok || name != "Context" || !within(target, "github.com/asynkron/protoactor-go") {
						continue
					}
					if count++; count > 1 || !within(s.dir, "actors") {
						found = append(found, t.at(s, fn, "Receive(actor.Context)"))
					}
				}
			}
			return found
		},
		breaks: []snippet{
			{"master/a.go": "import \"github.com/asynkron/protoactor-go/actor\"\nfunc (h H) Receive(c actor.Context) {}"},
			{
				"actors/a.go": "import \"github.com/asynkron/protoactor-go/actor\"\nfunc (h H) Receive(c actor.Context) {}",
				"actors/b.go": "import \"github.com/asynkron/protoactor-go/actor\"\nfunc (h I) Receive(c actor.Context) {}",
			},
		},
		keeps: []snippet{
			{"actors/a.go": "import \"github.com/asynkron/protoactor-go/actor\"\nfunc (h H) Receive(c actor.Context) {}"},
			{"chunkserver/a.go": "func (h H) Receive(c Frame) {}"},
		},
	}
}

// fatalRule catches Fatal on logger values, which the bans on packages do not see.
func fatalRule() rule {
	testing := []string{"t", "b", "f", "tb", "rt", "T", "TB"}
	return rule{
		name:   "no Fatal on a logger",
		reason: "logrus's Fatal ends the process: only main decides that",
		check: func(t *tree) (found []finding) {
			for _, s := range t.written() {
				if s.test || s.file.Name.Name == "main" {
					continue
				}
				s.inspect(func(node ast.Node) {
					selector, ok := node.(*ast.SelectorExpr)
					if !ok || !strings.HasPrefix(selector.Sel.Name, "Fatal") || strings.HasSuffix(selector.Sel.Name, "Level") {
						return
					}
					switch x := selector.X.(type) {
					case *ast.Ident:
						if slices.Contains(testing, x.Name) {
							return
						}
					case *ast.SelectorExpr:
						if slices.Contains(testing, x.Sel.Name) {
							return
						}
					}
					found = append(found, t.at(s, node, "%s", selector.Sel.Name))
				})
			}
			return found
		},
		breaks: []snippet{
			{"master/a.go": "func f(l L) { l.Fatal(1) }"},
			{"clientlib/a.go": "func (c *C) f() { c.log.WithField(1, 2).Fatalf(1) }"},
		},
		keeps: []snippet{{"cluster/clustertest/a.go": "func f(t T) { t.Fatal(1); s.t.Fatalf(1) }"}},
	}
}

func initRule() rule {
	return rule{
		name:   "no init",
		reason: "importing a package does nothing: what must happen is called, in an order that a reader sees",
		check: func(t *tree) (found []finding) {
			for _, s := range t.written() {
				for _, decl := range s.file.Decls {
					if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
						found = append(found, t.at(s, fn, "func init"))
					}
				}
			}
			return found
		},
		breaks: []snippet{{"master/a.go": "func init() {}"}, {"master/a_test.go": "func init() {}"}},
		keeps: []snippet{
			{"master/a.go": "func (x X) init() {}"},
			{"messages/pb/a.pb.go": "// Code generated by x. DO NOT EDIT.\n\npackage pb\n\nfunc init() {}"},
		},
	}
}

func sleepRule() rule {
	return rule{
		name: "no Sleep",
		reason: "a sleep in a test is either too short or a waste, one in a program does not hear its context; " +
			"in a bubble of testing/synctest time costs nothing",
		check: func(t *tree) (found []finding) {
			for _, s := range t.written() {
				if bubble := slices.ContainsFunc(s.file.Imports, func(spec *ast.ImportSpec) bool {
					return spec.Path.Value == `"testing/synctest"`
				}); bubble && s.test {
					continue
				}
				s.inspect(func(node ast.Node) {
					if target, name, ok := s.selected(node); ok && target == "time" && name == "Sleep" {
						found = append(found, t.at(s, node, "time.Sleep"))
					}
				})
			}
			return found
		},
		breaks: []snippet{
			{"master/a_test.go": "import \"time\"\nfunc f() { time.Sleep(1) }"},
			{"cluster/a.go": "import clock \"time\"\nvar _ = clock.Sleep"},
		},
		keeps: []snippet{{"master/a_test.go": "import (\n\"time\"\n\"testing/synctest\"\n)\nfunc f() { synctest.Test(nil, func() { time.Sleep(1) }) }"}},
	}
}

func skipRule() rule {
	return rule{
		name:   "no skipped test",
		reason: "a test that is skipped fails no one. Inside a property, rapid's Skip discards a draw, which is no skipped test",
		check: func(t *tree) (found []finding) {
			for _, s := range t.written() {
				if !s.test {
					continue
				}
				s.inspect(func(node ast.Node) {
					var params *ast.FieldList
					var body *ast.BlockStmt
					switch fn := node.(type) {
					case *ast.FuncDecl:
						params, body = fn.Type.Params, fn.Body
					case *ast.FuncLit:
						params, body = fn.Type.Params, fn.Body
					default:
						return
					}
					found = append(found, skips(t, s, params, body)...)
				})
			}
			return found
		},
		breaks: []snippet{{"master/a_test.go": "import \"testing\"\nfunc TestA(t *testing.T) { if true { t.Skip() } }"}},
		keeps: []snippet{
			{"master/a_test.go": "import \"pgregory.net/rapid\"\nfunc f(t *rapid.T) { t.Skip() }"},
			{"master/a_test.go": "import (\n\"testing\"\n\"pgregory.net/rapid\"\n)\nfunc TestA(t *testing.T) { rapid.Check(t, func(t *rapid.T) { t.Skip() }) }"},
		},
	}
}

// skips finds calls of Skip on a parameter of package testing, not looking into functions that have their own.
func skips(t *tree, s *source, params *ast.FieldList, body *ast.BlockStmt) (found []finding) {
	names := map[string]bool{}
	for _, field := range params.List {
		kind := field.Type
		if star, ok := kind.(*ast.StarExpr); ok {
			kind = star.X
		}
		if target, _, ok := s.selected(kind); ok && target == "testing" {
			for _, name := range field.Names {
				names[name.Name] = true
			}
		}
	}
	if len(names) == 0 || body == nil {
		return nil
	}
	ast.Inspect(body, func(node ast.Node) bool {
		if fn, ok := node.(*ast.FuncLit); ok && len(fn.Type.Params.List) > 0 {
			return false // looked at by itself
		}
		if selector, ok := node.(*ast.SelectorExpr); ok && strings.HasPrefix(selector.Sel.Name, "Skip") {
			if x, ok := selector.X.(*ast.Ident); ok && names[x.Name] {
				found = append(found, t.at(s, node, "%s.%s", x.Name, selector.Sel.Name))
			}
		}
		return true
	})
	return found
}

func leakRule() rule {
	const leak = "go.uber.org/goleak"
	return rule{
		name:   "goleak where goroutines start",
		reason: "who starts a goroutine must end it: goleak in the package's tests notices if not",
		check: func(t *tree) (found []finding) {
			starts, tested, leaks := map[string]finding{}, map[string]bool{}, map[string]bool{}
			for _, s := range t.written() {
				if s.test {
					tested[s.dir] = true
					leaks[s.dir] = leaks[s.dir] || s.imports["goleak"] == leak
					continue
				}
				if s.file.Name.Name == "main" {
					continue
				}
				s.inspect(func(node ast.Node) {
					if _, ok := node.(*ast.GoStmt); ok {
						starts[s.dir] = t.at(s, node, "starts a goroutine, but no test of %s uses goleak", s.dir)
					}
				})
			}
			for dir, f := range starts {
				if tested[dir] && !leaks[dir] {
					found = append(found, f)
				}
			}
			return found
		},
		breaks: []snippet{{"master/a.go": "func f() { go f() }", "master/a_test.go": "import \"testing\"\nvar _ testing.T"}},
		keeps:  []snippet{{"master/a.go": "func f() { go f() }", "master/a_test.go": "import \"go.uber.org/goleak\"\n"}},
	}
}

func todoRule() rule {
	marks := []string{"TO" + "DO", "FIX" + "ME", "XX" + "X:"}
	return rule{
		name:   "nothing left to do in comments",
		reason: "what is missing is said in a document or made, not hidden in a comment",
		check: func(t *tree) (found []finding) {
			for _, s := range t.written() {
				for _, group := range s.file.Comments {
					for _, comment := range group.List {
						if slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(comment.Text, mark) }) {
							found = append(found, t.at(s, comment, "%.60s", comment.Text))
						}
					}
				}
			}
			return found
		},
		breaks: []snippet{{"master/a.go": "// " + marks[0] + ": later\nvar _ int"}, {"master/a.go": "func f() { /* " + marks[1] + " */ }"}},
		keeps:  []snippet{{"master/a.go": "const mark = \"" + marks[0] + "\""}},
	}
}
