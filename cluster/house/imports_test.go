package house_test

import (
	"slices"
	"strings"
)

// layer says what a folder of the module may import of the module, itself and what is below it aside. The longest folder
// that fits decides.
type layer struct {
	folder string
	may    []string
	reason string
}

var layers = []layer{
	{"messages/gfs", nil, "everybody imports the nouns, so they import nobody"},
	{"messages/pb", nil, "generated from the .proto files alone"},
	{"messages/wire", []string{"messages"}, "frames are words, without behaviour"},
	{"messages", []string{"messages"}, "the words of the system know no part of it"},
	{"actors", []string{"messages"}, "the kit serves master and chunkserver and knows neither"},
	{"master/namespace", []string{"messages"}, "the replicated state depends on nothing but its commands"},
	{"master/lease", []string{"messages", "master/registry", "master/placement"}, "a core is driven by its shell, not by actors"},
	{"master/registry", []string{"messages", "master/placement"}, "a core is driven by its shell, not by actors"},
	{"master/placement", []string{"messages"}, "choosing servers needs only facts about them"},
	{"master/scan", []string{"messages", "master/namespace", "master/registry", "master/placement"}, "a core is driven by its shell, not by actors"},
	{"master/oplog", []string{"messages"}, "the log carries commands and does not read them"},
	{"master", []string{"messages", "actors", "master"}, "a master knows chunkservers by messages alone"},
	{"chunkserver/mutation", []string{"messages"}, "a core is driven by its shell, not by actors"},
	{"chunkserver/store", []string{"messages", "chunkserver/mutation"}, "the disk knows no network and no actor"},
	{"chunkserver/dataplane", []string{"messages", "chunkserver/mutation", "chunkserver/store"}, "bytes never pass an actor"},
	{"chunkserver", []string{"messages", "actors", "chunkserver"}, "a chunkserver knows masters by messages alone"},
	{"clientlib/record", []string{"messages/gfs"}, "records work on any file that appends"},
	{"clientlib", []string{"messages", "clientlib"}, "what users link holds nothing of the servers"},
	{"cluster/examples", []string{"clientlib", "messages/gfs"}, "an example imports what a user would"},
	{"cluster/tools", nil, "the tools are a module of their own"},
	{"cluster", []string{"messages", "actors", "master", "chunkserver", "clientlib", "cluster"}, "the world around the parts"},
}

// layerOf is the layer that a folder belongs to.
func layerOf(dir string) (layer, bool) {
	var best layer
	for _, l := range layers {
		if within(dir, l.folder) && len(l.folder) > len(best.folder) {
			best = l
		}
	}
	return best, best.folder != ""
}

// layerFindings checks the imports of the files in one layer.
func layerFindings(t *tree, l layer) (found []finding) {
	for _, s := range t.sources {
		if own, ok := layerOf(s.dir); !ok || own.folder != l.folder {
			continue
		}
		for _, spec := range s.file.Imports {
			target, inside := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module+"/")
			if !inside || within(target, l.folder) || within(target, l.may...) {
				continue
			}
			if s.test && within(s.dir, "clientlib") && target == "cluster/clustertest" {
				continue // users' programs are tested against a whole cluster, and so is the client
			}
			found = append(found, t.at(s, spec, "%s may not import %s", l.folder, target))
		}
	}
	return found
}

// library says where an import from outside the module may stand. Tests are exempt where tests says so.
type library struct {
	prefix string
	folder []string // or files
	tests  bool
	reason string
}

var libraries = []library{
	{"github.com/asynkron/protoactor-go", []string{"actors"}, false, "its pitfalls are kept in one place, the kit"},
	{"github.com/boltdb/bolt", []string{"chunkserver/store", "master/oplog"}, false, "the index of replicas and the checkpoints are the only bolt files"},
	{"go.etcd.io/bbolt", nil, false, "one bolt in the tree: both map the same files and lock them differently"},
	{"github.com/hashicorp", []string{"master/oplog"}, false, "what Raft is made of ends at the operation log"},
	{"github.com/nats-io/nats.go", []string{"actors/bus", "clientlib", "cluster", "master/master.go", "chunkserver/chunkserver.go"}, true,
		"control messages pass one edge on each side; the wiring only hands a server of the same process on"},
	{"github.com/nats-io/nats-server", []string{"cluster"}, true, "the bus is not a part of master, chunkserver or client"},
	{"github.com/spf13", []string{"cluster/cairn"}, false, "flags are parsed by the command alone"},
	{"github.com/vbauerster/mpb", []string{"cluster/cairn"}, false, "progress is shown by the command alone"},
	{"github.com/prometheus/client_golang", []string{"cluster/monitor"}, true, "counters are plain numbers: one place shows them to Prometheus"},
	{"pgregory.net/rapid", nil, true, "it tests and is not linked into programs"},
	{"go.uber.org/goleak", []string{"cluster/clustertest"}, true, "it tests and is not linked into programs"},
	{"testing", []string{"cluster/clustertest"}, true, "only the package that serves tests takes a testing.TB"},
	{"unsafe", nil, false, "no measured need of it so far"},
	{"net/http/pprof", nil, false, "importing it changes http.DefaultServeMux: register its handlers by name"},
	{"expvar", nil, false, "importing it changes http.DefaultServeMux"},
}

// libraryFindings checks where one library is imported.
func libraryFindings(t *tree, l library) (found []finding) {
	for _, s := range t.written() {
		if within(s.dir, l.folder...) || slices.Contains(l.folder, s.path) || l.tests && s.test || within(s.dir, "cluster/tools") {
			continue
		}
		for _, spec := range s.file.Imports {
			if target := strings.Trim(spec.Path.Value, `"`); within(target, l.prefix) {
				found = append(found, t.at(s, spec, "%s is imported outside %s", target, orNowhere(l.folder)))
			}
		}
	}
	return found
}

func orNowhere(folders []string) string {
	if len(folders) == 0 {
		return "tests"
	}
	return strings.Join(folders, ", ")
}

// fileIn is a file of the folder, or the file that place names.
func fileIn(place string) string {
	if strings.HasSuffix(place, ".go") {
		return place
	}
	return place + "/a.go"
}

func importing(target string) string { return "import _ \"" + target + "\"\n" }

func importRules() (all []rule) {
	for _, l := range layers {
		outside := module + "/cluster/clustertest"
		if l.folder == "cluster" {
			outside = module + "/elsewhere"
		}
		r := rule{
			name:   "imports of " + l.folder,
			reason: l.reason,
			check:  func(t *tree) []finding { return layerFindings(t, l) },
			breaks: []snippet{{l.folder + "/a.go": importing(outside)}, {l.folder + "/below/a.go": importing(module + "/elsewhere")}},
		}
		for _, may := range append(slices.Clone(l.may), l.folder) {
			r.keeps = append(r.keeps, snippet{l.folder + "/a.go": importing(module + "/" + may)})
		}
		all = append(all, r)
	}
	for _, l := range libraries {
		r := rule{
			name:   "import of " + l.prefix,
			reason: l.reason,
			check:  func(t *tree) []finding { return libraryFindings(t, l) },
			breaks: []snippet{{"clientlib/record/a.go": importing(l.prefix)}, {"elsewhere/a.go": importing(l.prefix + "/below")}},
		}
		if within("clientlib/record", l.folder...) {
			r.breaks = r.breaks[1:]
		}
		for _, place := range l.folder {
			r.keeps = append(r.keeps, snippet{fileIn(place): importing(l.prefix)})
		}
		all = append(all, r)
	}
	return append(all, rule{
		name:   "messages import only protobuf",
		reason: "the words of the system must cost their users nothing; gfs needs the standard library alone",
		check: func(t *tree) (found []finding) {
			for _, s := range t.sources {
				if !within(s.dir, "messages") || s.test {
					continue
				}
				for _, spec := range s.file.Imports {
					target := strings.Trim(spec.Path.Value, `"`)
					first, _, _ := strings.Cut(target, "/")
					if !strings.Contains(first, ".") || within(target, module) || within(target, "google.golang.org/protobuf") && s.dir != "messages/gfs" {
						continue
					}
					found = append(found, t.at(s, spec, "%s imports %s", s.dir, target))
				}
			}
			return found
		},
		breaks: []snippet{
			{"messages/a.go": importing("github.com/sirupsen/logrus")},
			{"messages/gfs/a.go": importing("google.golang.org/protobuf/proto")},
		},
		keeps: []snippet{{"messages/pb/a.go": importing("google.golang.org/protobuf/proto")}, {"messages/gfs/a.go": importing("io/fs")}},
	})
}
