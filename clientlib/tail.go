package clientlib

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/cairnfs/cairn/clientlib/record"
)

// The pauses of Tail between looks at a file that does not grow. The first is what a reader lags behind a producer
// that appends now and then; the last bounds what idle readers cost the cluster: each look is a request to a
// chunkserver and one to the master.
const (
	firstTailPause = 50 * time.Millisecond
	lastTailPause  = 500 * time.Millisecond
)

// Tail hands out the framed records of a file from a position on, each once and in the order of the file, and waits
// for more at its end: it follows a file that grows, across chunks and renames, and never goes back. The zero Position is
// the beginning of the file.
//
// The iteration ends when ctx does, with a last pair that holds ctx.Err(), or with an error that waiting does not
// mend: the file does not exist, may not be read or was dropped, no replica of a part is intact, the client was closed.
// While the cluster does not answer it goes on trying, and says so in the client's log. A record's payload is valid until the
// next step.
func (c *Client) Tail(ctx context.Context, name string, from record.Position) iter.Seq2[record.Record, error] {
	return func(yield func(record.Record, error) bool) {
		if err := c.follow(ctx, name, from, func(r record.Record) bool { return yield(r, nil) }); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			yield(record.Record{}, err)
		}
	}
}

// follow gives records to take until that returns false, which is no error.
func (c *Client) follow(ctx context.Context, name string, from record.Position, take func(record.Record) bool) error {
	file, err := c.Open(ctx, name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // only read
	reader := record.NewReader(file.WithContext(ctx))
	reader.SeekTo(from)
	pause := firstTailPause
	for {
		for r, err := range reader.Records(ctx) {
			switch {
			case err == nil:
				if !take(r) {
					return nil
				}
				pause = firstTailPause
			case ctx.Err() != nil || !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrBusy):
				return pathError("tail", name, err)
			default:
				c.log.WithField("path", name).WithError(err).Warn("tail waits for the cluster")
			}
		}
		if err := c.rest(ctx, pause); err != nil {
			return pathError("tail", name, err)
		}
		pause = min(2*pause, lastTailPause)
	}
}

// rest waits for d, or until ctx or the client's life ends, which is the error.
func (c *Client) rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.life.Done():
		return errClientClosed()
	}
}
