// Command generate writes report.pb.go: what protoc with protoc-gen-go would
// write, but by Go alone, so that nothing needs to be installed. It is a module
// of its own, to keep the compiler out of what Ballast depends on.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"google.golang.org/protobuf/cmd/protoc-gen-go/internal_gengo"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: generate DIRECTORY FILE.proto")
	}
	if err := generate(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

// generate compiles dir/name, which imports nothing, and writes the Go file
// beside it.
func generate(dir, name string) error {
	compiler := protocompile.Compiler{
		Resolver:       &protocompile.SourceResolver{ImportPaths: []string{dir}},
		SourceInfoMode: protocompile.SourceInfoStandard, // comments become Go comments
	}
	files, err := compiler.Compile(context.Background(), name)
	if err != nil {
		return fmt.Errorf("compile %s: %w", name, err)
	}
	compiled, ok := files[0].(linker.Result)
	if !ok {
		return fmt.Errorf("compile %s: a %T has no descriptor", name, files[0])
	}
	plugin, err := protogen.Options{}.New(&pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{name},
		Parameter:      proto.String("paths=source_relative"),
		ProtoFile:      []*descriptorpb.FileDescriptorProto{compiled.FileDescriptorProto()},
	})
	if err != nil {
		return fmt.Errorf("read the descriptor of %s: %w", name, err)
	}
	for _, f := range plugin.Files {
		if f.Generate {
			internal_gengo.GenerateFile(plugin, f)
		}
	}
	answer := plugin.Response()
	if answer.Error != nil {
		return fmt.Errorf("generate Go of %s: %w", name, errors.New(answer.GetError()))
	}
	for _, f := range answer.File {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f.GetName())), []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
