package local

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// startPatience bounds the start of one process, stopPatience its end after SIGTERM before it is killed.
	startPatience = 30 * time.Second
	stopPatience  = 10 * time.Second
	// lookPause is the pause between two looks at a process that starts or ends.
	lookPause = 10 * time.Millisecond
)

// identity tells one process from all others since the machine was started, also from a later one with its id.
type identity struct {
	pid   int
	ticks uint64 // when it began, in clock ticks since boot
}

// identify is the identity of the process that has a pid now. A process that has ended but was not waited for yet
// counts as none. The error is fs.ErrNotExist if there is none.
func identify(pid int) (identity, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, syscall.ESRCH) {
		err = fs.ErrNotExist // it ended between open and read
	}
	if err != nil {
		return identity{}, err
	}
	// The second field is the program's name in brackets and may hold anything: what counts begins behind it.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	const state, started = 0, 19 // of the fields from the third
	if len(fields) <= started {
		return identity{}, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	if bytes.ContainsAny(fields[state], "ZX") {
		return identity{}, fs.ErrNotExist
	}
	ticks, err := strconv.ParseUint(string(fields[started]), 10, 64)
	if err != nil {
		return identity{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return identity{pid, ticks}, nil
}

// alive reports whether the process runs.
func (id identity) alive() bool {
	now, err := identify(id.pid)
	return err == nil && now == id
}

// signal signals the process, and no other. One that has ended is no error.
func (id identity) signal(s syscall.Signal) error {
	if !id.alive() {
		return nil
	}
	if err := syscall.Kill(id.pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s to process %d: %w", s, id.pid, err)
	}
	return nil
}

// gone waits until the process has ended.
func (id identity) gone(ctx context.Context) error {
	return look(ctx, func() (bool, error) { return !id.alive(), nil })
}

// stop ends the process with SIGTERM, and with SIGKILL if it takes too long, which is an error.
func (id identity) stop(ctx context.Context) error {
	if err := id.signal(syscall.SIGTERM); err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	if id.gone(patience) == nil {
		return nil
	}
	err := errors.Join(id.signal(syscall.SIGKILL), id.gone(ctx))
	return errors.Join(fmt.Errorf("process %d did not stop within %s and was killed", id.pid, stopPatience), err)
}

// look looks until there is an answer or an error, or ctx ends.
func look(ctx context.Context, at func() (done bool, err error)) error {
	ticker := time.NewTicker(lookPause)
	defer ticker.Stop()
	for {
		if done, err := at(); done || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readIdentity reads a pid file. ok is false if there is none or the process that it names has ended.
func readIdentity(name string) (id identity, ok bool, err error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return identity{}, false, nil
	}
	if err != nil {
		return identity{}, false, err
	}
	if _, err := fmt.Sscan(string(text), &id.pid, &id.ticks); err != nil || id.pid <= 1 {
		return identity{}, false, fmt.Errorf("%s: want a process id and its start time, found %.40q: remove the file if the process is gone", name, text)
	}
	return id, id.alive(), nil
}

// files are where a process's traces are.
type files struct{ pid, out, log string }

func (c *Cluster) files(name string) files {
	return files{
		pid: filepath.Join(c.dir, "run", name+".pid"),
		out: filepath.Join(c.dir, "run", name+".out"),
		log: filepath.Join(c.dir, "log", name+".log"),
	}
}

// spawn starts a process that outlives this one, notes its identity, and waits until it says that it is ready.
func (c *Cluster) spawn(ctx context.Context, binary string, p Part) (err error) {
	at := c.files(p.Name)
	out, err := os.Create(at.out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	log, err := os.OpenFile(at.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	command := exec.Command(binary, p.Args...) //nolint:noctx // it outlives this program
	command.Stdout, command.Stderr = out, log
	command.Env = append(os.Environ(), "CAIRN_LOG_LEVEL="+cmp.Or(os.Getenv("CAIRN_LOG_LEVEL"), "info"))
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // the terminal's signals and end are not for it
	if err := command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	id, err := identify(command.Process.Pid)
	if err != nil {
		return fmt.Errorf("%s ended at once: %w: see %s", p.Name, errors.Join(err, command.Wait()), at.log)
	}
	if err := os.WriteFile(at.pid, fmt.Appendf(nil, "%d %d\n", id.pid, id.ticks), 0o644); err != nil {
		return errors.Join(err, id.signal(syscall.SIGKILL))
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	err = look(ctx, func() (bool, error) {
		if readyLine(at.out) != "" {
			return true, nil
		}
		if !id.alive() {
			return false, fmt.Errorf("%w: %s", command.Wait(), lastLine(at.log))
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("%s is not ready: %w: see %s", p.Name, err, at.log)
	}
	return command.Process.Release()
}

// readyLine is what a process printed behind `ready `, "" if it did not yet.
func readyLine(name string) string {
	text, _ := os.ReadFile(name) // what cannot be read says nothing
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "ready "); ok && strings.HasSuffix(line, "\n") {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func lastLine(name string) string {
	text, _ := os.ReadFile(name) // only for an error message
	text = bytes.TrimSpace(text)
	return string(text[bytes.LastIndexByte(text, '\n')+1:])
}
