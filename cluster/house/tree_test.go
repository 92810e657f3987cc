package house_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

const module = "github.com/cairnfs/cairn"

// source is one Go file of the tree.
type source struct {
	path      string // from the root, with slashes
	dir       string
	text      []byte
	file      *ast.File
	imports   map[string]string // by the name the file uses: the import path
	test      bool
	generated bool
}

// tree is what the rules judge: the files below the root.
type tree struct {
	fsys    fs.FS
	fset    *token.FileSet
	sources []*source
	dirs    []string // that hold a file, testdata aside
	top     []string // the names at the root
}

// finding is one place that breaks a rule.
type finding struct {
	path string
	line int // 0: the whole file or folder
	text string
}

func (f finding) String() string {
	if f.line == 0 {
		return f.path + ": " + f.text
	}
	return fmt.Sprintf("%s:%d: %s", f.path, f.line, f.text)
}

// scratch are what programs and tools leave at the root, as .gitignore says.
var scratch = []string{".git", ".cairn", ".cluster", "bin"}

// load parses every Go file below the root of fsys.
func load(fsys fs.FS) (*tree, error) {
	t := &tree{fsys: fsys, fset: token.NewFileSet()}
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if slices.Contains(scratch, name) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil // a worktree's .git is a file
		}
		if !strings.Contains(name, "/") {
			t.top = append(t.top, name)
		}
		if entry.IsDir() {
			if entry.Name() == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if dir := path.Dir(name); !slices.Contains(t.dirs, dir) {
			t.dirs = append(t.dirs, dir)
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		return t.add(name)
	})
	return t, err
}

func (t *tree) add(name string) error {
	text, err := fs.ReadFile(t.fsys, name)
	if err != nil {
		return err
	}
	file, err := parser.ParseFile(t.fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	s := &source{path: name, dir: path.Dir(name), text: text, file: file, imports: map[string]string{},
		test: strings.HasSuffix(name, "_test.go"), generated: ast.IsGenerated(file)}
	for _, spec := range file.Imports {
		target, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		s.imports[importName(spec, target)] = target
	}
	t.sources = append(t.sources, s)
	return nil
}

// importName is the name by which a file speaks of an import, guessed from the path as most packages are named.
func importName(spec *ast.ImportSpec, target string) string {
	if spec.Name != nil {
		return spec.Name.Name
	}
	base := path.Base(target)
	if len(base) > 1 && base[0] == 'v' && strings.Trim(base[1:], "0123456789") == "" {
		base = path.Base(path.Dir(target))
	}
	return strings.TrimPrefix(strings.TrimSuffix(base, ".go"), "go-")
}

func (t *tree) line(pos token.Pos) int { return t.fset.Position(pos).Line }

// at makes a finding at a node of the file.
func (t *tree) at(s *source, node ast.Node, format string, args ...any) finding {
	return finding{s.path, t.line(node.Pos()), fmt.Sprintf(format, args...)}
}

// written are the files that people write, not generators.
func (t *tree) written() []*source {
	return slices.DeleteFunc(slices.Clone(t.sources), func(s *source) bool { return s.generated })
}

// within reports whether a folder or import path is one of the folders or below one.
func within(name string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool {
		return name == folder || strings.HasPrefix(name, folder+"/")
	})
}

// selected returns the import path and the name if an expression is a name out of an imported package, as in time.Now.
func (s *source) selected(node ast.Node) (target, name string, ok bool) {
	selector, isSelector := node.(*ast.SelectorExpr)
	if !isSelector {
		return "", "", false
	}
	x, isIdent := selector.X.(*ast.Ident)
	if !isIdent {
		return "", "", false
	}
	target, ok = s.imports[x.Name]
	return target, selector.Sel.Name, ok
}

// inspect calls visit for each node of a file.
func (s *source) inspect(visit func(node ast.Node)) {
	ast.Inspect(s.file, func(node ast.Node) bool {
		if node != nil {
			visit(node)
		}
		return true
	})
}
