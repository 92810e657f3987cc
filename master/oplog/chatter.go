package oplog

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/sirupsen/logrus"
)

// chatterPause is the least time between two warnings of one kind: a peer that is down makes one every 400 ms.
const chatterPause = 30 * time.Second

// chatter passes what the Raft library logs on to logrus. Its Info and Warn lines are the ordinary course of
// elections and replication, hence Debug; only its errors are faults that were absorbed, hence Warn.
type chatter struct {
	log *logrus.Entry

	mu     sync.Mutex
	warned map[string]time.Time // by phrase; the library has some dozens
}

// newChatter makes the logger that the Raft library gets.
func newChatter(log *logrus.Entry) hclog.Logger {
	logger := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Off, Output: io.Discard})
	logger.RegisterSink(&chatter{log: log, warned: map[string]time.Time{}})
	return logger
}

// Accept is called by hclog for each line, with keys and values in turn.
func (c *chatter) Accept(name string, level hclog.Level, msg string, args ...any) {
	out := logrus.DebugLevel
	switch level {
	case hclog.Trace:
		out = logrus.TraceLevel
	case hclog.Error:
		if c.mayWarn(msg) {
			out = logrus.WarnLevel
		}
	}
	if !c.log.Logger.IsLevelEnabled(out) {
		return
	}
	fields := logrus.Fields{"op": "raft"}
	if name != "" {
		fields["part"] = name
	}
	for i := 0; i+1 < len(args); i += 2 {
		key, value := fmt.Sprint(args[i]), args[i+1]
		if format, ok := value.(hclog.Format); ok && len(format) > 0 {
			value = fmt.Sprintf(fmt.Sprint(format[0]), format[1:]...)
		}
		if key == "error" {
			key = "err"
		}
		fields[key] = value
	}
	c.log.WithFields(fields).Log(out, msg)
}

// mayWarn reports whether a warning of this kind is due.
func (c *chatter) mayWarn(phrase string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if last, ok := c.warned[phrase]; ok && now.Sub(last) < chatterPause {
		return false
	}
	c.warned[phrase] = now
	return true
}
