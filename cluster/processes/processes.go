package processes

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopPatience is how long a process may take to stop after SIGTERM before it is killed.
const stopPatience = 10 * time.Second

// tailLines is how many of a process's last log lines are kept for an error message.
const tailLines = 20

// Process is one running process. Its methods are safe for concurrent use.
type Process struct {
	name    string
	command *exec.Cmd
	ready   string        // what followed "ready " on stdout
	exited  chan struct{} // closed when the process has ended and was reaped
	log     tail
}

// Start runs binary with args and waits until it prints a line `ready …` on stdout, or until ctx ends. The process's
// stderr is copied to log, which may be nil. The name is used in errors only.
func Start(ctx context.Context, log io.Writer, name, binary string, args ...string) (*Process, error) {
	command := exec.Command(binary, args...) //nolint:noctx // ctx bounds the start alone: the process runs until Stop or Kill
	p := &Process{name: name, command: command, exited: make(chan struct{})}
	if log == nil {
		log = io.Discard
	}
	p.command.Stderr = io.MultiWriter(log, &p.log)
	// A child in its own group does not get the terminal's Ctrl-C: whoever started it stops it in order.
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	stdout, err := p.command.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := p.command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	ready := make(chan string, 1)
	go p.watch(stdout, ready)
	select {
	case p.ready = <-ready:
		return p, nil
	case <-p.exited:
		return nil, fmt.Errorf("%s ended before it was ready: %w\n%s", name, p.exitError(), p.log.String())
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("%s was not ready in time: %w\n%s", name, ctx.Err(), p.log.String()), p.Kill())
	}
}

// watch reads stdout to its end, then reaps the process.
func (p *Process) watch(stdout io.Reader, ready chan<- string) {
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			select {
			case ready <- rest:
			default: // only the first counts
			}
		}
	}
	_, _ = io.Copy(io.Discard, stdout) // a line too long for the scanner must not block the process
	_ = p.command.Wait()               // how it ended is in ProcessState
	close(p.exited)
}

// Ready is what the process printed behind `ready `: an address in most cases.
func (p *Process) Ready() string { return p.ready }

// Pid is the process's id.
func (p *Process) Pid() int { return p.command.Process.Pid }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Kill ends the process with SIGKILL and waits until it is gone. It is an error if the process ended otherwise.
func (p *Process) Kill() error {
	if err := p.command.Process.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.exited
	if status, ok := p.command.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		return fmt.Errorf("%s was to be killed but ended by itself: %s", p.name, p.command.ProcessState)
	}
	return nil
}

// Signal sends a signal, SIGSTOP and SIGCONT say.
func (p *Process) Signal(signal syscall.Signal) error { return p.command.Process.Signal(signal) }

// Stop asks the process to end with SIGTERM and waits; after 10 s it is killed, which is an error. A process that has
// ended already is no error.
func (p *Process) Stop() error {
	_ = p.command.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.exited:
		return nil
	case <-time.After(stopPatience):
		return errors.Join(fmt.Errorf("%s did not stop within %s and was killed", p.name, stopPatience), p.Kill())
	}
}

func (p *Process) exitError() error {
	if state := p.command.ProcessState; state != nil && !state.Success() {
		return errors.New(state.String())
	}
	return errors.New("exit status 0")
}

// tail keeps the last lines written to it.
type tail struct {
	mu    sync.Mutex
	lines []string
}

// Write implements io.Writer; it never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, strings.Split(strings.TrimRight(string(p), "\n"), "\n")...)
	if n := len(t.lines) - tailLines; n > 0 {
		t.lines = append(t.lines[:0], t.lines[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}
