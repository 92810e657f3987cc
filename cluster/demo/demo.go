package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster"
	"github.com/cairnfs/cairn/cluster/processes"
)

const (
	chunkservers       = 4
	racks              = 2
	producers          = 8
	recordsPerProducer = 2000
	// startPatience bounds the start of everything.
	startPatience = time.Minute
)

// Config says what to show.
type Config struct {
	Binary string    // the cairn command, which runs the parts
	Files  []string  // local files to store
	Out    io.Writer // what a person reads
	Keep   bool      // leave the directory behind
}

// Summary is what was seen.
type Summary struct {
	Chunkservers int     `json:"chunkservers"`
	Files        []File  `json:"files"`
	Producers    int     `json:"producers"`
	Acknowledged int     `json:"records_acknowledged"`
	Found        int     `json:"records_found"`
	Killed       string  `json:"killed"`
	KilledAfter  int     `json:"killed_after_records"`
	LongestWait  float64 `json:"longest_append_ms"`
	Seconds      float64 `json:"seconds"`
}

// File is a file that was stored, read back and found equal.
type File struct {
	Local     string  `json:"local"`
	Path      string  `json:"path"`
	Bytes     int64   `json:"bytes"`
	SHA256    string  `json:"sha256"`
	Chunks    int     `json:"chunks"`
	Copies    int     `json:"copies"`
	WriteRate float64 `json:"write_mb_per_s"`
	ReadRate  float64 `json:"read_mb_per_s"`
}

// show is one run.
type show struct {
	Config
	dir    string
	parts  *processes.Cluster
	client *clientlib.Client
	log    *os.File
}

// Run shows the system. The context ends it early; whatever it started is ended and its directory removed.
func Run(ctx context.Context, cfg Config) (summary Summary, err error) {
	dir, err := os.MkdirTemp("", "cairn-demo-")
	if err != nil {
		return Summary{}, err
	}
	s := &show{Config: cfg, dir: dir}
	defer func() { err = errors.Join(err, s.close()) }()
	begin := time.Now()
	if err := s.start(ctx); err != nil {
		return Summary{}, err
	}
	summary = Summary{Chunkservers: chunkservers, Producers: producers}
	for _, local := range cfg.Files {
		f, err := s.store(ctx, local)
		if err != nil {
			return Summary{}, err
		}
		summary.Files = append(summary.Files, f)
	}
	if err := s.produce(ctx, &summary); err != nil {
		return Summary{}, err
	}
	if err := s.check(ctx, &summary); err != nil {
		return Summary{}, err
	}
	summary.Seconds = time.Since(begin).Seconds()
	s.sayf("all checked in %.1f s: %d files equal, %d records acknowledged and each there once, one of %d chunkservers lost on the way",
		summary.Seconds, len(summary.Files), summary.Found, chunkservers)
	return summary, nil
}

func (s *show) sayf(format string, args ...any) { fmt.Fprintf(s.Out, format+"\n", args...) }

// start starts NATS, a master and the chunkservers, each a process of its own.
func (s *show) start(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if s.log, err = os.Create(filepath.Join(s.dir, "log")); err != nil {
		return err
	}
	s.parts, err = processes.StartCluster(ctx, processes.Config{
		Binary: s.Binary, Dir: s.dir, Chunkservers: chunkservers, Racks: racks, Log: s.log,
	})
	if err != nil {
		return err
	}
	if s.client, err = clientlib.Connect(ctx, s.parts.URL()); err != nil {
		return err
	}
	if err := cluster.WaitChunkservers(ctx, s.client, chunkservers); err != nil {
		return err
	}
	s.sayf("started in %s: NATS at %s, 1 master, %d chunkservers on %d racks, a process each", s.dir, s.parts.URL(), chunkservers, racks)
	return nil
}

// close ends everything and removes the directory.
func (s *show) close() error {
	var failed []error
	if s.client != nil {
		failed = append(failed, s.client.Close())
	}
	if s.parts != nil {
		failed = append(failed, s.parts.Close())
	}
	if s.log != nil {
		failed = append(failed, s.log.Close())
	}
	if s.Keep {
		s.sayf("left behind: %s", s.dir)
	} else {
		failed = append(failed, os.RemoveAll(s.dir))
	}
	return errors.Join(failed...)
}

// store stores one local file under /demo.
func (s *show) store(ctx context.Context, local string) (File, error) {
	if err := s.client.MkdirAll(ctx, "/demo", 0o755); err != nil {
		return File{}, err
	}
	f := File{Local: local, Path: path.Join("/demo", filepath.Base(local))}
	begin := time.Now()
	var err error
	if f.SHA256, f.Bytes, err = s.copyIn(ctx, local, f.Path); err != nil {
		return File{}, fmt.Errorf("store %s: %w", local, err)
	}
	f.WriteRate = rate(f.Bytes, time.Since(begin))
	locations, err := s.client.Locations(ctx, f.Path, 0, max(f.Bytes, 1))
	if err != nil {
		return File{}, err
	}
	f.Chunks, f.Copies = len(locations), fewestCopies(locations)
	s.sayf("stored %s: %.1f MB in %d chunks, %d copies of each, %.0f MB/s", f.Path, float64(f.Bytes)/1e6, f.Chunks, f.Copies, f.WriteRate)
	return f, nil
}

func fewestCopies(locations []clientlib.ChunkLocation) int {
	fewest := 0
	for i, l := range locations {
		if i == 0 || len(l.Servers) < fewest {
			fewest = len(l.Servers)
		}
	}
	return fewest
}

// check reads everything back.
func (s *show) check(ctx context.Context, summary *Summary) error {
	for i := range summary.Files {
		f := &summary.Files[i]
		begin := time.Now()
		sum, n, err := s.hash(ctx, f.Path)
		if err != nil {
			return fmt.Errorf("read %s back: %w", f.Path, err)
		}
		f.ReadRate = rate(n, time.Since(begin))
		if n != f.Bytes || sum != f.SHA256 {
			return fmt.Errorf("%s came back different: %d bytes of SHA-256 %s, stored were %d of %s", f.Path, n, sum, f.Bytes, f.SHA256)
		}
		s.sayf("read %s back: %.1f MB equal (SHA-256 %.16s…), %.0f MB/s", f.Path, float64(n)/1e6, sum, f.ReadRate)
	}
	return s.checkRecords(ctx, summary)
}

func rate(n int64, d time.Duration) float64 { return float64(n) / 1e6 / max(d.Seconds(), 1e-9) }
