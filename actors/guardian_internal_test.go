package actors

import (
	"io"
	"strings"
	"testing"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/sirupsen/logrus"
)

// TestGuardianCrashesInsteadOfRestarting plays the library's report of a panic that the kit did not catch.
func TestGuardianCrashesInsteadOfRestarting(t *testing.T) {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	var crashes []error
	system := NewSystem(Config{
		Log:   logrus.NewEntry(logger),
		Crash: func(err error) { crashes = append(crashes, err) },
	})
	defer system.Shutdown()
	g := &guardian{system}
	g.HandleFailure(system.library, nil, system.library.NewLocalPID("lease#1"), nil, "bug", nil)
	if len(crashes) != 1 || !strings.Contains(crashes[0].Error(), "lease#1 panicked: bug") {
		t.Errorf("crashes: %v", crashes)
	}
}

// TestTheLibraryAsksTheGuardian makes the library itself meet a panic: an actor without the kit's Receive.
func TestTheLibraryAsksTheGuardian(t *testing.T) {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	crashes := make(chan error, 2)
	system := NewSystem(Config{Log: logrus.NewEntry(logger), Crash: func(err error) { crashes <- err }})
	defer system.Shutdown()
	started := 0
	pid := system.root.Spawn(actor.PropsFromFunc(func(ctx actor.Context) {
		switch ctx.Message().(type) {
		case *actor.Started:
			started++
		case string:
			panic("bug")
		}
	}))
	system.root.Send(pid, "message")
	if err := <-crashes; !strings.Contains(err.Error(), "bug") {
		t.Errorf("crashed with %v", err)
	}
	if started != 1 {
		t.Errorf("the actor started %d times", started)
	}
}
