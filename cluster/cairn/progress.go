package main

import (
	"io"
	"os"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progressFrom is the size in bytes from which a transfer is worth a bar.
const progressFrom = 16 << 20

// progress shows bars of long transfers on a terminal, and nothing in a pipe.
type progress struct{ bars *mpb.Progress } // nil where none are shown

func (a *app) newProgress() *progress {
	f, ok := a.stderr.(*os.File)
	if !ok || a.json {
		return &progress{}
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return &progress{}
	}
	return &progress{bars: mpb.New(mpb.WithOutput(f), mpb.WithWidth(40))}
}

// reader counts what is read from r in a bar named name. Size is -1 where it is not known.
func (p *progress) reader(r io.Reader, name string, size int64) io.Reader {
	if p.bars == nil || size >= 0 && size < progressFrom {
		return r
	}
	bar := p.bars.AddBar(max(size, 0),
		mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.Name("  "), decor.AverageSpeed(decor.SizeB1024(0), "% .1f")),
		mpb.BarRemoveOnComplete(),
	)
	return bar.ProxyReader(r)
}

// wait draws the bars for the last time.
func (p *progress) wait() {
	if p.bars != nil {
		p.bars.Shutdown()
	}
}
