package house_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
	"unicode"
)

// word is a word that says nothing, or that the paper has another one for.
type word struct {
	words  []string
	allow  []string // folders in which it is somebody else's term
	reason string
}

var words = []word{
	{[]string{"util", "utils", "misc", "helper", "helpers", "manager"}, nil, "says nothing about what is inside"},
	{[]string{"wal", "journal"}, []string{"master/oplog"}, "the paper's word is operation log"},
	{[]string{"datanode", "namenode"}, nil, "the paper's words are chunkserver and master"},
	{[]string{"generation"}, nil, "the paper's word is version; an epoch is the acting master's alone"},
}

// folderWords are for folders and files only: inside a sentence of code they are plain English.
var folderWords = word{[]string{"common", "base", "shared", "lib", "pkg", "types", "core", "impl", "stuff"}, nil,
	"says nothing about what is inside"}

// split cuts an identifier or a file name into lower-case words.
func split(name string) (parts []string) {
	begin := 0
	runes := []rune(name)
	for i, r := range runes {
		switch {
		case !unicode.IsLetter(r):
			parts = append(parts, strings.ToLower(string(runes[begin:i])))
			begin = i + 1
		case unicode.IsUpper(r) && i > begin && (!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])):
			parts = append(parts, strings.ToLower(string(runes[begin:i])))
			begin = i
		}
	}
	return append(parts, strings.ToLower(string(runes[begin:])))
}

// check returns the finding of one word in a name that stands in a folder.
func (w word) check(dir, name string) (string, bool) {
	if within(dir, w.allow...) {
		return "", false
	}
	for _, part := range split(name) {
		if slices.Contains(w.words, part) {
			return fmt.Sprintf("%s: %q %s", name, part, w.reason), true
		}
	}
	return "", false
}

// declared calls visit for each name that a file declares at package level, methods included.
func (s *source) declared(visit func(name *ast.Ident)) {
	for _, decl := range s.file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			visit(d.Name)
		case *ast.GenDecl:
			if d.Tok == token.IMPORT {
				continue
			}
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					visit(spec.Name)
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						visit(name)
					}
				}
			}
		}
	}
}

func nameRules() []rule {
	return []rule{{
		name:   "names",
		reason: "names are the paper's, and say what a thing is",
		check: func(t *tree) (found []finding) {
			for _, dir := range t.dirs {
				for _, w := range append(slices.Clone(words), folderWords) {
					if text, bad := w.check(dir, path.Base(dir)); bad {
						found = append(found, finding{dir, 0, text})
					}
				}
			}
			for _, s := range t.written() {
				for _, w := range append(slices.Clone(words), folderWords) {
					if text, bad := w.check(s.dir, strings.TrimSuffix(path.Base(s.path), ".go")); bad {
						found = append(found, finding{s.path, 0, text})
					}
				}
				s.declared(func(name *ast.Ident) {
					for _, w := range words {
						if text, bad := w.check(s.dir, name.Name); bad {
							found = append(found, t.at(s, name, "%s", text))
						}
					}
				})
			}
			return found
		},
		breaks: []snippet{
			{"master/util/a.go": ""},
			{"master/common.go": ""},
			{"master/lease_helpers.go": ""},
			{"master/a.go": "type LeaseManager struct{}"},
			{"master/a.go": "func (x X) writeJournal() {}"},
			{"chunkserver/a.go": "const DataNode, maxUtil = 1, 2"},
			{"chunkserver/a.go": "type WALWriter int"},
		},
		keeps: []snippet{
			{"master/a.go": "func commonPrefix() {}\ntype Managerial int\nconst wall = 1"},
			{"master/oplog/a.go": "type walStore int"},
		},
	}}
}
