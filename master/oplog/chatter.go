package oplog

import (
	"fmt"
	"io"

	"github.com/hashicorp/go-hclog"
	"github.com/sirupsen/logrus"
)

// chatter passes what the Raft library logs on to logrus. Its Info and Warn lines are the ordinary course of
// elections and replication, hence Debug; only its errors are faults that were absorbed, hence Warn.
type chatter struct {
	log *logrus.Entry
}

// newChatter makes the logger that the Raft library gets.
func newChatter(log *logrus.Entry) hclog.Logger {
	logger := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Off, Output: io.Discard})
	logger.RegisterSink(chatter{log: log})
	return logger
}

// Accept is called by hclog for each line, with keys and values in turn.
func (c chatter) Accept(name string, level hclog.Level, msg string, args ...any) {
	out := logrus.DebugLevel
	switch level {
	case hclog.Trace:
		out = logrus.TraceLevel
	case hclog.Error:
		out = logrus.WarnLevel
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
