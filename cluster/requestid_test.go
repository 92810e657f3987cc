package cluster_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/cluster/clustertest"
)

// lines keeps the lines of a log, from any goroutine.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, string(p))
	return len(p), nil
}

// with are the lines that hold all of some words.
func (l *lines) with(words ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for _, line := range l.text {
		for _, word := range words {
			if !strings.Contains(line, word) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

func (l *lines) log() *logrus.Entry {
	log := logrus.New()
	log.SetOutput(l)
	log.SetLevel(logrus.DebugLevel)
	log.SetFormatter(&logrus.TextFormatter{DisableColors: true})
	return logrus.NewEntry(log)
}

// TestOneCallInThreeLogs follows a call by its id through the logs of the client, the master and a chunkserver.
func TestOneCallInThreeLogs(t *testing.T) {
	var servers, client lines
	c := clustertest.Start(t, clustertest.WithLog(servers.log()))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cl := c.Client(clientlib.WithLogger(client.log()))
	f := mustCreate(ctx, t, cl, "/f")
	id := func(line string) string {
		_, rest, _ := strings.Cut(line, "request=")
		id, _, _ := strings.Cut(rest, " ")
		return strings.TrimSpace(id)
	}
	ids := map[string]string{}
	for _, call := range []struct {
		name, op string
		do       func() error
	}{
		{"append", "op=mutate", func() error { _, err := f.Append(ctx, []byte("a record")); return err }},
		{"read", "op=read", func() error {
			g, err := c.Client(clientlib.WithLogger(client.log())).Open(ctx, "/f") // that knows no location yet
			if err == nil {
				defer g.Close()
				_, err = g.ReadAt(make([]byte, 8), 0)
			}
			return err
		}},
	} {
		before := len(client.with("request="))
		if err := call.do(); err != nil {
			t.Fatal(err)
		}
		for _, line := range client.with("request=")[before:] {
			number := id(line)
			if len(number) != 16 {
				t.Fatalf("id %q in %s", number, line)
			}
			master, chunkserver := servers.with("request="+number, "role=master"), servers.with("request="+number, "role=chunkserver", call.op)
			if len(master) > 0 && len(chunkserver) > 0 {
				ids[call.name] = number
			}
		}
		if ids[call.name] == "" {
			t.Errorf("%s: no id is in all three logs; the client's are %q", call.name, client.with("request=")[before:])
		}
	}
	if ids["append"] == ids["read"] {
		t.Errorf("two calls have the id %s", ids["read"])
	}
}
