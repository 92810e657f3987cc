package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/cairnfs/cairn/clientlib"
)

const (
	exitFailed = 1
	exitUsage  = 2
)

// app is what every command shares: the global flags and the streams.
type app struct {
	natsURL string
	cluster string
	user    string
	json    bool
	verbose bool

	terminal       bool // stdout is one
	stdin          io.Reader
	stdout, stderr io.Writer

	logging sync.Once
	log     *logrus.Entry
}

// usageError marks an error that a person makes at the keyboard: exit status 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run is the command with its arguments and streams; it returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	if f, ok := stdout.(*os.File); ok {
		a.terminal = isTerminal(f)
	}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usageError{}):
		fmt.Fprintf(stderr, "cairn: %s\n", oneLine(err))
		return exitUsage
	default:
		fmt.Fprintf(stderr, "cairn: %s\n", oneLine(err))
		return exitFailed
	}
}

// oneLine is an error's text as one line that a terminal shows as it is.
func oneLine(err error) string { return printable(strings.ReplaceAll(err.Error(), "\n", "; ")) }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "cairn",
		Short:         "A distributed file system for many producers that append to shared files",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs, // so that an unknown command is reported by RunE, in our words
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q: see cairn --help", args[0])
			}
			return cmd.Help()
		},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout) // before cobra's own commands are made: they keep it
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w: see %s --help", err, cmd.CommandPath())
	})
	flags := root.PersistentFlags()
	flags.StringVar(&a.natsURL, "nats", envOr("CAIRN_NATS_URL", "nats://127.0.0.1:4222"), "the cluster's NATS `URL` (or CAIRN_NATS_URL)")
	flags.StringVar(&a.cluster, "cluster", envOr("CAIRN_CLUSTER", "local"), "the cluster's `NAME` (or CAIRN_CLUSTER)")
	flags.StringVar(&a.user, "user", defaultUser(), "act as this user `NAME`")
	flags.BoolVar(&a.json, "json", false, "print facts as JSON, one object a line")
	flags.BoolVar(&a.verbose, "verbose", false, "log to stderr what happens")
	root.AddCommand(
		a.demoCommand(), a.devCommand(), a.localCommand(), a.natsCommand(), a.masterCommand(), a.chunkserverCommand(),
		a.putCommand(), a.getCommand(), a.catCommand(), a.lsCommand(), a.statCommand(), a.mkdirCommand(),
		a.rmCommand(), a.mvCommand(), a.appendCommand(), a.locateCommand(), a.benchCommand(),
		a.chmodCommand(), a.chownCommand(), a.setrepCommand(), a.truncateCommand(), a.duCommand(), a.dfCommand(), a.undeleteCommand(),
		a.trashCommand(), a.tailCommand(), a.adminCommand(), a.versionCommand(),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		misuse(cmd)
		a.complete(cmd)
	}
	return root
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func defaultUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "nobody"
}

// logger writes to stderr: warnings and errors, or from the level that CAIRN_LOG_LEVEL names, with --verbose everything. It
// is one for the whole command: a logger of its own for each client would write into the others' lines. The flags must have
// been read. Safe for concurrent use.
func (a *app) logger() *logrus.Entry {
	a.logging.Do(func() {
		log := logrus.New()
		log.SetOutput(a.stderr)
		level, err := logrus.ParseLevel(envOr("CAIRN_LOG_LEVEL", "warning"))
		if err != nil {
			level = logrus.WarnLevel
		}
		if a.verbose {
			level = logrus.DebugLevel
		}
		log.SetLevel(level)
		a.log = logrus.NewEntry(log)
	})
	return a.log
}

// connect opens a client; the caller closes it.
func (a *app) connect(ctx context.Context, opts ...clientlib.Option) (*clientlib.Client, error) {
	opts = append(opts, clientlib.WithCluster(a.cluster), clientlib.WithUser(a.user), clientlib.WithLogger(a.logger()))
	return clientlib.Connect(ctx, a.natsURL, opts...)
}

// withClient runs f with a client and closes it.
func (a *app) withClient(ctx context.Context, f func(*clientlib.Client) error) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	return errors.Join(f(client), client.Close())
}

// exactly, atLeast and between count arguments; what is wrong is an error of usage that names the command's form.
func exactly(n int) cobra.PositionalArgs { return between(n, n) }

// unbounded is between's most where there is no upper bound.
const unbounded = int(^uint(0) >> 1)

func atLeast(n int) cobra.PositionalArgs { return between(n, unbounded) }

func between(least, most int) cobra.PositionalArgs {
	want := fmt.Sprint(least)
	switch {
	case most == unbounded:
		want = fmt.Sprintf("at least %d", least)
	case most > least:
		want = fmt.Sprintf("%d to %d", least, most)
	}
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			form := strings.TrimSuffix(cmd.UseLine(), " [flags]")
			return usagef("%s takes %s argument(s), %d given: use %s", cmd.CommandPath(), want, len(args), form)
		}
		return nil
	}
}

// misuse makes errors of usage of whatever a command, also one that cobra brought, says of its arguments.
func misuse(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if err != nil && !errors.As(err, &usageError{}) {
				return usagef("%w: see %s --help", err, cmd.CommandPath())
			}
			return err
		}
	}
	if cmd.HasSubCommands() && !cmd.Runnable() {
		group(cmd)
	}
	for _, below := range cmd.Commands() {
		misuse(below)
	}
}

// group makes a missing or unknown one of cmd's commands an error that names them.
func group(cmd *cobra.Command) {
	cmd.Args = cobra.ArbitraryArgs // so that RunE reports it
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		if len(args) == 0 {
			return usagef("%s needs one of its commands: %s", cmd.CommandPath(), strings.Join(names, ", "))
		}
		return usagef("%s has no command %q: use one of %s", cmd.CommandPath(), args[0], strings.Join(names, ", "))
	}
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which version of the program this is",
		Args:  exactly(0),
		RunE: func(*cobra.Command, []string) error {
			v := version{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				if info.Main.Version != "" {
					v.Version = info.Main.Version
				}
				for _, s := range info.Settings {
					switch s.Key {
					case "vcs.revision":
						v.Revision = s.Value
					case "vcs.modified":
						v.Modified = s.Value == "true"
					}
				}
			}
			if a.json {
				return a.printJSON(v)
			}
			line := "cairn " + v.Version
			if v.Revision != "" {
				line += " revision " + v.Revision
			}
			if v.Modified {
				line += " (modified)"
			}
			_, err := fmt.Fprintln(a.stdout, line, v.Go, v.Platform)
			return err
		},
	}
}

// version is what cairn version prints: what the Go tool recorded when it built the program.
type version struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified"` // built from files that differ from the revision
	Go       string `json:"go"`
	Platform string `json:"platform"`
}
