package top

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cairnfs/cairn/clientlib"
)

const (
	// interval is the time from one picture to the next.
	interval = time.Second
	// patience is the time after which a picture is drawn although no answer came: the ages in it go on.
	patience = interval + interval/2
	// askTime is how long an answer of the master is waited for before the view says that there is none.
	askTime = 2 * time.Second
)

// Config says what to show where.
type Config struct {
	Cluster string // the name to show
	Out     io.Writer
	JSON    bool                       // a Snapshot a line instead of pictures
	Size    func() (width, height int) // of the terminal, asked before each picture; needed unless JSON
}

// Run shows the cluster until ctx ends, which is no error. The terminal is left as it was.
func Run(ctx context.Context, client *clientlib.Client, cfg Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	metrics, events := make(chan clientlib.Metrics), make(chan clientlib.Event)
	var listeners sync.WaitGroup
	defer listeners.Wait()
	defer cancel()
	listeners.Go(func() {
		for m, err := range client.Metrics(ctx) {
			if err != nil || !send(ctx, metrics, m) {
				return
			}
		}
	})
	listeners.Go(func() {
		for e, err := range client.Events(ctx) {
			if err != nil || !send(ctx, events, e) {
				return
			}
		}
	})
	states := make(chan State)
	listeners.Go(func() { askAgainAndAgain(ctx, client, states) })

	screen := screen{Config: cfg}
	if err := screen.open(); err != nil {
		return err
	}
	err := screen.follow(ctx, states, metrics, events)
	if closed := screen.close(); err == nil {
		err = closed
	}
	return err
}

func send[T any](ctx context.Context, to chan<- T, value T) bool {
	select {
	case to <- value:
		return true
	case <-ctx.Done():
		return false
	}
}

// askAgainAndAgain asks the master, each time interval after the last answer.
func askAgainAndAgain(ctx context.Context, client *clientlib.Client, to chan<- State) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if !send(ctx, to, ask(ctx, client)) {
			return
		}
		timer.Reset(interval)
	}
}

func ask(ctx context.Context, client *clientlib.Client) (s State) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if s.Space, s.Err = client.StatFS(ctx); s.Err != nil {
		return s
	}
	if s.Master, s.Err = client.ActingMaster(ctx); s.Err != nil {
		return s
	}
	s.Servers, s.Err = client.Servers(ctx)
	return s
}

// screen draws a view.
type screen struct {
	Config
	view View
}

// follow takes in what comes and draws: after each answer of the master, and after patience without one.
func (s *screen) follow(ctx context.Context, states <-chan State, metrics <-chan clientlib.Metrics, events <-chan clientlib.Event) error {
	ticker := time.NewTicker(patience)
	defer ticker.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case m := <-metrics:
			s.view.AddMetrics(m)
		case e := <-events:
			s.view.AddEvent(e)
		case state := <-states:
			s.view.SetState(state)
			ticker.Reset(patience)
			err = s.draw()
		case <-ticker.C:
			err = s.draw()
		}
		if err != nil {
			return err
		}
	}
}

func (s *screen) draw() error {
	now := time.Now()
	if s.JSON {
		if !s.view.known && s.view.state.Err == nil {
			return nil // nothing to tell yet
		}
		return json.NewEncoder(s.Out).Encode(s.view.Snapshot(s.Cluster, now.UTC()))
	}
	width, height := s.Size()
	var picture bytes.Buffer
	picture.WriteString("\x1b[H") // to the corner; each line then clears what stood behind it, so that nothing flickers
	for i, l := range s.view.Draw(s.Cluster, now, width, height) {
		if i > 0 {
			picture.WriteString("\r\n")
		}
		fmt.Fprintf(&picture, "%s\x1b[K", l)
	}
	picture.WriteString("\x1b[J") // and what was below
	_, err := s.Out.Write(picture.Bytes())
	return err
}

// open goes to the terminal's other screen and hides the cursor; close goes back.
func (s *screen) open() error { return s.control("\x1b[?1049h\x1b[?25l") }

func (s *screen) close() error { return s.control("\x1b[?25h\x1b[?1049l") }

func (s *screen) control(sequence string) error {
	if s.JSON {
		return nil
	}
	_, err := io.WriteString(s.Out, sequence)
	return err
}
