package house_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// rule is one thing that holds for the tree.
type rule struct {
	name   string
	reason string
	check  func(t *tree) []finding
	breaks []snippet // each must give a finding
	keeps  []snippet // none may
}

// snippet is a small tree, one file a line of its keys: path and content. Files without a package clause get one.
type snippet map[string]string

// code makes the tree of a snippet.
func (s snippet) tree(t *testing.T) *tree {
	files := fstest.MapFS{}
	for name, content := range s {
		if strings.HasSuffix(name, ".go") && !strings.HasPrefix(content, "package ") && !strings.Contains(content, "\npackage ") {
			content = "package p\n\n" + content
		}
		files[name] = &fstest.MapFile{Data: []byte(content)}
	}
	loaded, err := load(files)
	if err != nil {
		t.Fatalf("snippet %v: %v", s, err)
	}
	return loaded
}

func rules() []rule {
	return slices.Concat(importRules(), pureRules(), banRules(), variableRules(), shapeRules(), nameRules(), generatedRules())
}

// The tree keeps every rule.
func TestTheTreeKeepsTheRules(t *testing.T) {
	tree, err := load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.sources) < 20 {
		t.Fatalf("only %d Go files found: is this run from cluster/house?", len(tree.sources))
	}
	for _, rule := range rules() {
		t.Run(rule.name, func(t *testing.T) {
			for _, f := range rule.check(tree) {
				t.Errorf("%v\n\tthe rule: %s", f, rule.reason)
			}
		})
	}
}

// Every rule can fail, and does not where it should not.
func TestEachRuleCanFail(t *testing.T) {
	seen := map[string]bool{}
	for _, rule := range rules() {
		t.Run(rule.name, func(t *testing.T) {
			if rule.reason == "" || seen[rule.name] || len(rule.breaks) == 0 {
				t.Error("a rule has a name of its own, a reason, and code that breaks it")
			}
			seen[rule.name] = true
			for _, snippet := range rule.breaks {
				if len(rule.check(snippet.tree(t))) == 0 {
					t.Errorf("does not find anything in %v", snippet)
				}
			}
			for _, snippet := range rule.keeps {
				for _, f := range rule.check(snippet.tree(t)) {
					t.Errorf("finds %v in %v", f, snippet)
				}
			}
		})
	}
}
