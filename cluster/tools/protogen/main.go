// Command protogen compiles the .proto files of a folder and writes the Go code for them into its pb subfolder.
//
// It needs no protoc: protocompile parses and links the files, and protoc-gen-go of this module's go.mod, run by
// `go tool`, writes the code. The same input gives the same output. Each generated file carries the SHA-256 of its
// .proto, by which a test notices that the generator was not run.
//
//	go -C cluster/tools run ./protogen ../../messages
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/pluginpb"
)

// module is stripped from go_package, so that what remains is a path below the folder of the main go.mod.
const module = "github.com/cairnfs/cairn/messages"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: protogen FOLDER: the folder of the .proto files; code goes to FOLDER/pb")
		os.Exit(2)
	}
	if err := generate(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

// generate compiles every .proto in folder and replaces all generated files in folder/pb.
func generate(ctx context.Context, folder string) error {
	paths, err := filepath.Glob(filepath.Join(folder, "*.proto")) // sorted
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		return fmt.Errorf("no .proto file in %s", folder)
	}
	names := make([]string, len(paths))
	for i, path := range paths {
		names[i] = filepath.Base(path)
	}
	request, err := compile(ctx, folder, names)
	if err != nil {
		return err
	}
	response, err := runPlugin(ctx, request)
	if err != nil {
		return err
	}
	return replace(folder, response.GetFile())
}

// compile parses and links the named files. The request lists every file after those it imports, as plugins expect.
func compile(ctx context.Context, folder string, names []string) (*pluginpb.CodeGeneratorRequest, error) {
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{folder}}),
		SourceInfoMode: protocompile.SourceInfoStandard, // comments reach the Go code
	}
	files, err := compiler.Compile(ctx, names...)
	if err != nil {
		return nil, err
	}
	request := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: names,
		Parameter:      proto.String("module=" + module),
	}
	seen := map[string]bool{}
	var add func(file protoreflect.FileDescriptor)
	add = func(file protoreflect.FileDescriptor) {
		if seen[file.Path()] {
			return
		}
		seen[file.Path()] = true
		imports := file.Imports()
		for i := range imports.Len() {
			add(imports.Get(i).FileDescriptor)
		}
		request.ProtoFile = append(request.ProtoFile, protoutil.ProtoFromFileDescriptor(file))
	}
	for _, file := range files {
		add(file)
	}
	return request, nil
}

// runPlugin hands the request to protoc-gen-go on its standard input and reads its answer.
func runPlugin(ctx context.Context, request *pluginpb.CodeGeneratorRequest) (*pluginpb.CodeGeneratorResponse, error) {
	input, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil {
		return nil, err
	}
	plugin := exec.CommandContext(ctx, "go", "tool", "protoc-gen-go")
	plugin.Stdin, plugin.Stderr = bytes.NewReader(input), os.Stderr
	output, err := plugin.Output()
	if err != nil {
		return nil, fmt.Errorf("protoc-gen-go: %w", err)
	}
	response := new(pluginpb.CodeGeneratorResponse)
	if err := proto.Unmarshal(output, response); err != nil {
		return nil, fmt.Errorf("answer of protoc-gen-go: %w", err)
	}
	if response.Error != nil {
		return nil, fmt.Errorf("protoc-gen-go: %s", response.GetError())
	}
	return response, nil
}

// replace writes the generated files, each stamped with its source's hash, and removes those without a source.
func replace(folder string, files []*pluginpb.CodeGeneratorResponse_File) error {
	if err := os.MkdirAll(filepath.Join(folder, "pb"), 0o755); err != nil {
		return err
	}
	stale, err := filepath.Glob(filepath.Join(folder, "pb", "*.pb.go"))
	if err != nil {
		return err
	}
	for _, file := range files {
		path := filepath.Join(folder, filepath.FromSlash(file.GetName()))
		content, err := stamp(folder, file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return fmt.Errorf("%w: is go_package %s/pb?", err, module)
		}
		stale = slices.DeleteFunc(stale, func(name string) bool { return name == path })
	}
	for _, path := range stale {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// stamp adds the SHA-256 of the .proto below the line that names it.
func stamp(folder string, file *pluginpb.CodeGeneratorResponse_File) ([]byte, error) {
	before, after, found := bytes.Cut([]byte(file.GetContent()), []byte("\n// source: "))
	name, rest, _ := bytes.Cut(after, []byte("\n"))
	if !found {
		return nil, fmt.Errorf("%s: no line that names its source", file.GetName())
	}
	source, err := os.ReadFile(filepath.Join(folder, string(name)))
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s\n// source: %s\n// sha256: %x\n%s", before, name, sha256.Sum256(source), rest), nil
}
