package house_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"path"
	"slices"
	"strings"
)

const (
	// maxFileLines is where a file has more than one thought.
	maxFileLines = 500
	// maxFunctionLines is far beyond the 70 of good style; who passes it has not split a function at all.
	maxFunctionLines = 120
)

// folders gives each folder of code its one meaning. A new one is entered here, in the commit that makes it.
var folders = map[string]string{
	"messages":                "every message that crosses a process boundary",
	"messages/gfs":            "nouns, limits, errors",
	"messages/pb":             "generated from messages/*.proto",
	"messages/wire":           "frames of the data plane",
	"actors":                  "the actor kit",
	"actors/bus":              "the edge to NATS",
	"master":                  "the master: its actors and their wiring",
	"master/backup":           "the format of backups",
	"master/namespace":        "pure: the replicated state",
	"master/lease":            "pure: leases and configurations of chunks",
	"master/registry":         "pure: chunkservers and where chunks are",
	"master/placement":        "pure: where replicas go",
	"master/scan":             "pure: what sweeps find",
	"master/oplog":            "the operation log and its checkpoints",
	"chunkserver":             "the chunkserver: its actors and their wiring",
	"chunkserver/mutation":    "pure: the order of mutations",
	"chunkserver/store":       "replicas on disk",
	"chunkserver/dataplane":   "raw TCP",
	"clientlib":               "what users import",
	"clientlib/record":        "messages on top of record append",
	"cluster":                 "a whole cluster in one process",
	"cluster/cairn":           "the cairn command",
	"cluster/clustertest":     "a whole cluster inside a test",
	"cluster/demo":            "what cairn demo does",
	"cluster/processes":       "a local cluster of separate processes",
	"cluster/local":           "the same, for people: it outlives the command",
	"cluster/monitor":         "metrics and health over HTTP",
	"cluster/top":             "the live view of a cluster",
	"cluster/sim":             "whole clusters in one thread, from a seed",
	"cluster/faults":          "faults injected into disks and connections",
	"cluster/chaos":           "faults on real processes",
	"cluster/bench":           "benchmarks",
	"cluster/bench/limits":    "the machine's raw limits",
	"cluster/house":           "tests about the code itself",
	"cluster/tools":           "the tools' own module",
	"cluster/tools/protogen":  "code for the .proto files",
	"cluster/examples":        "example programs, a folder each",
	"cluster/docs":            "documentation",
	"cluster/docs/decisions":  "decisions that a newcomer would question",
	"cluster/docs/operations": "what operators do",
	".github/workflows":       "continuous integration",
	".ci":                     "what continuous integration runs",
}

// top are the names that may stand at the root.
var top = []string{
	"messages", "actors", "master", "chunkserver", "clientlib", "cluster", "go.mod", "go.sum", "Taskfile.yml", "README.md",
	"LICENSE", ".ci", ".github", ".gitignore", ".golangci.yml",
}

func shapeRules() []rule {
	return []rule{
		{
			name:   "names at the root",
			reason: "the root is the map of the architecture: five parts and what tools insist on",
			check: func(t *tree) (found []finding) {
				for _, name := range t.top {
					if !slices.Contains(top, name) {
						found = append(found, finding{name, 0, "is not one of the fixed names"})
					}
				}
				return found
			},
			breaks: []snippet{{"pkg/a.go": ""}, {"Makefile": ""}},
			keeps:  []snippet{{"messages/a.go": "", ".cairn/x": "", "README.md": ""}},
		},
		{
			name:   "folders",
			reason: "a folder has one meaning, and the table in cluster/house says which",
			check: func(t *tree) (found []finding) {
				for _, dir := range t.dirs {
					if dir != "." && folders[dir] == "" && path.Dir(dir) != "cluster/examples" {
						found = append(found, finding{dir, 0, "has no meaning in the table of folders"})
					}
				}
				return found
			},
			breaks: []snippet{{"master/stuff/a.go": ""}, {"cluster/docs/misc/a.md": ""}},
			keeps:  []snippet{{"master/lease/a.go": "", "master/lease/testdata/a.txt": "", "cluster/examples/events/main.go": ""}},
		},
		{
			name:   "doc.go",
			reason: "a package says in doc.go what it is, its state and invariants, what is durable, what it does not do",
			check:  docFindings,
			breaks: []snippet{
				{"master/a.go": ""},
				{"master/doc.go": "package master", "master/a.go": ""},
				{"master/doc.go": "// Something else.\npackage master", "master/a.go": ""},
				{"master/doc.go": "// Package lease is another.\npackage master", "master/a.go": ""},
			},
			keeps: []snippet{
				{"master/doc.go": "// Package master is it.\npackage master", "master/a.go": ""},
				{"cluster/examples/events/main.go": "// Command events is an example.\npackage main"},
			},
		},
		{
			name:   "length of files",
			reason: "a file is one thought: about 150 lines, seldom 400, never over 500",
			check: func(t *tree) (found []finding) {
				for _, s := range t.written() {
					if lines := bytes.Count(s.text, []byte("\n")); lines > maxFileLines {
						found = append(found, finding{s.path, 0, fmt.Sprintf("%d lines, at most %d", lines, maxFileLines)})
					}
				}
				return found
			},
			breaks: []snippet{{"master/a.go": strings.Repeat("// line\n", maxFileLines) + "var _ = 1\n"}},
			keeps: []snippet{
				{"master/a.go": strings.Repeat("// line\n", maxFileLines-10) + "var _ = 1\n"},
				{"messages/pb/a.pb.go": "// Code generated by x. DO NOT EDIT.\n\npackage pb\n" + strings.Repeat("// line\n", maxFileLines)},
			},
		},
		{
			name:   "length of functions",
			reason: "a function is one thought too; tests that are tables may be longer",
			check: func(t *tree) (found []finding) {
				for _, s := range t.written() {
					for _, decl := range s.file.Decls {
						fn, ok := decl.(*ast.FuncDecl)
						if !ok || s.test {
							continue
						}
						if lines := t.line(fn.End()) - t.line(fn.Pos()) + 1; lines > maxFunctionLines {
							found = append(found, t.at(s, fn, "%s has %d lines, at most %d", fn.Name.Name, lines, maxFunctionLines))
						}
					}
				}
				return found
			},
			breaks: []snippet{{"master/a.go": "func f() {\n" + strings.Repeat("\n", maxFunctionLines) + "}"}},
			keeps:  []snippet{{"master/a_test.go": "func f() {\n" + strings.Repeat("\n", maxFunctionLines) + "}"}},
		},
	}
}

// docFindings looks for a package comment in doc.go. A main package of one file may have it there.
func docFindings(t *tree) (found []finding) {
	packages := map[string][]*source{}
	for _, s := range t.sources {
		if !s.test {
			packages[s.dir] = append(packages[s.dir], s)
		}
	}
	for dir, files := range packages {
		at := slices.IndexFunc(files, func(s *source) bool { return path.Base(s.path) == "doc.go" })
		if at < 0 && len(files) == 1 && files[0].file.Name.Name == "main" {
			at = 0
		}
		if at < 0 {
			found = append(found, finding{dir, 0, "has no doc.go"})
			continue
		}
		doc := files[at]
		want := "Package " + doc.file.Name.Name + " "
		if doc.file.Name.Name == "main" {
			want = "Command " + path.Base(dir) + " "
		}
		if text := doc.file.Doc.Text(); !strings.HasPrefix(text, want) {
			found = append(found, finding{doc.path, 0, fmt.Sprintf("its comment begins %.30q, want %q", text, want)})
		}
	}
	return found
}
