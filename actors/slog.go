package actors

import (
	"context"
	"log/slog"

	"github.com/sirupsen/logrus"
)

// slogHandler hands records of log/slog to logrus. Groups become prefixes of keys, "group.key".
type slogHandler struct {
	entry  *logrus.Entry // with the attributes so far
	prefix string        // of further keys, ending in a dot unless empty
	quiet  bool          // Info becomes Debug
}

// NewSlogHandler makes a handler that logs to entry: for libraries that log by log/slog. Attributes become fields,
// those of a group with the group's name and a dot before theirs.
func NewSlogHandler(entry *logrus.Entry) slog.Handler { return &slogHandler{entry: entry} }

// newQuietHandler is for a library whose Info is at most of interest to who debugs it.
func newQuietHandler(entry *logrus.Entry) slog.Handler {
	return &slogHandler{entry: entry, quiet: true}
}

// Enabled reports whether entry's logger would write the level.
func (h *slogHandler) Enabled(_ context.Context, level slog.Level) bool {
	return h.entry.Logger.IsLevelEnabled(h.level(level))
}

func (h *slogHandler) level(level slog.Level) logrus.Level {
	switch {
	case level >= slog.LevelError:
		return logrus.ErrorLevel
	case level >= slog.LevelWarn:
		return logrus.WarnLevel
	case level >= slog.LevelInfo && !h.quiet:
		return logrus.InfoLevel
	case level >= slog.LevelDebug:
		return logrus.DebugLevel
	default:
		return logrus.TraceLevel
	}
}

// Handle logs one record.
func (h *slogHandler) Handle(ctx context.Context, record slog.Record) error {
	fields := make(logrus.Fields, record.NumAttrs())
	record.Attrs(func(attr slog.Attr) bool {
		addAttr(fields, h.prefix, attr)
		return true
	})
	entry := h.entry.WithContext(ctx).WithFields(fields)
	if !record.Time.IsZero() {
		entry = entry.WithTime(record.Time)
	}
	entry.Log(h.level(record.Level), record.Message)
	return nil
}

// WithAttrs is a handler that adds the attributes to every record.
func (h *slogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	fields := make(logrus.Fields, len(attrs))
	for _, attr := range attrs {
		addAttr(fields, h.prefix, attr)
	}
	return &slogHandler{entry: h.entry.WithFields(fields), prefix: h.prefix, quiet: h.quiet}
}

// WithGroup is a handler that puts the name and a dot before the keys that follow.
func (h *slogHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return &slogHandler{entry: h.entry, prefix: h.prefix + name + ".", quiet: h.quiet}
}

func addAttr(fields logrus.Fields, prefix string, attr slog.Attr) {
	value := attr.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		if attr.Key != "" {
			prefix += attr.Key + "."
		}
		for _, inner := range value.Group() {
			addAttr(fields, prefix, inner)
		}
		return
	}
	if attr.Key != "" || value.Any() != nil {
		fields[prefix+attr.Key] = value.Any()
	}
}
