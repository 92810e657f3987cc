package clientlib

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cairnfs/cairn/messages/gfs"
)

// DefaultCluster is the cluster that Connect talks to unless WithCluster names another.
const DefaultCluster = "local"

// DefaultTimeout is how long a call goes on without progress unless WithTimeout says otherwise.
const DefaultTimeout = 30 * time.Second

// Option changes how Connect makes a Client.
type Option func(*options)

type options struct {
	cluster     string
	user        string
	groups      []string
	rack        string
	timeout     time.Duration
	writerID    uint64
	path        DataPath
	dial        dialFunc
	log         *logrus.Entry
	tls         *tls.Config
	credentials string
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// WithCluster names the cluster: 1 to 64 letters, digits, - and _. Several may share one NATS server.
func WithCluster(name string) Option { return func(o *options) { o.cluster = name } }

// WithUser says who asks; the master decides permissions by it. The default is the user and primary group of this
// process.
func WithUser(name string, groups ...string) Option {
	return func(o *options) { o.user, o.groups = name, groups }
}

// WithRack is the rack label of this machine: replicas on the same rack are read first.
func WithRack(label string) Option { return func(o *options) { o.rack = label } }

// DataPath is the way on which the data of writes and record appends reach the replicas of a chunk.
type DataPath uint8

// The ways. The zero value chooses for each chunk: Decoupled if a replica is on this machine, or else on this machine's rack,
// and the primary is not; else InOrder. Pieces of less than gfs.SmallMutationBytes (64 KiB), and what cannot be pushed, go
// InOrder in any case.
const (
	AutoPath DataPath = iota
	// InOrder sends data with their mutation to the primary, and from there along the chain.
	InOrder
	// Decoupled pushes data to the nearest replica, from where they go to the one nearest to it, and so on; the primary
	// is told afterwards. Source: GFS 3.2
	Decoupled
)

// dataPaths are the names of the ways.
var dataPaths = [...]string{AutoPath: "auto", InOrder: "in-order", Decoupled: "decoupled"}

// String is the way's name: auto, in-order or decoupled.
func (p DataPath) String() string {
	if int(p) >= len(dataPaths) {
		return fmt.Sprintf("path(%d)", uint8(p))
	}
	return dataPaths[p]
}

// ParseDataPath is the way of a name that String gives. The error is gfs.CodeInvalid and lists the names.
func ParseDataPath(name string) (DataPath, error) {
	if i := slices.Index(dataPaths[:], name); i >= 0 {
		return DataPath(i), nil
	}
	return AutoPath, gfs.Errorf(gfs.CodeInvalid, "data path %q: want one of %s", name, strings.Join(dataPaths[:], ", "))
}

// WithDataPath fixes the way of all data that this client writes and appends. The default is AutoPath.
func WithDataPath(path DataPath) Option { return func(o *options) { o.path = path } }

// WithTimeout is how long a call goes on without progress before it ends with ErrUnavailable; more than 0.
func WithTimeout(d time.Duration) Option { return func(o *options) { o.timeout = d } }

// WithWriterID fixes the writer id of this client's record appends: the first File that appends uses id, the next
// id+1, and so on. No other client may use the same ids at the same time. The default is a random id a File.
func WithWriterID(id uint64) Option { return func(o *options) { o.writerID = id } }

// WithDialer makes every connection, to NATS and to chunkservers, with dial.
func WithDialer(dial func(ctx context.Context, network, address string) (net.Conn, error)) Option {
	return func(o *options) { o.dial = dial }
}

// WithLogger takes the library's log: absorbed faults as warnings, retries and every request as debug. The field request is
// the id of the call that a line is about; masters and chunkservers log it too. The default is none.
func WithLogger(log *logrus.Entry) Option { return func(o *options) { o.log = log } }

// WithTLS secures the connection to NATS.
func WithTLS(config *tls.Config) Option { return func(o *options) { o.tls = config } }

// WithCredentials authenticates to NATS with a credentials file (JWT and seed).
func WithCredentials(file string) Option { return func(o *options) { o.credentials = file } }

func newOptions(opts []Option) (options, error) {
	o := options{cluster: DefaultCluster, timeout: DefaultTimeout, dial: (&net.Dialer{}).DialContext}
	for _, opt := range opts {
		opt(&o)
	}
	if o.timeout <= 0 {
		return o, gfs.Errorf(gfs.CodeInvalid, "timeout %v: want more than 0", o.timeout)
	}
	if o.path > Decoupled {
		return o, gfs.Errorf(gfs.CodeInvalid, "data path %d: want AutoPath, InOrder or Decoupled", o.path)
	}
	if o.dial == nil {
		return o, gfs.Errorf(gfs.CodeInvalid, "nil dialer: leave WithDialer out for the default")
	}
	if o.log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		silent.SetLevel(logrus.PanicLevel)
		o.log = logrus.NewEntry(silent)
	}
	if o.user == "" {
		o.user, o.groups = processUser()
	}
	return o, nil
}

// processUser is the name and primary group of the user who runs this process, or "nobody".
func processUser() (name string, groups []string) {
	current, err := user.Current()
	if err != nil {
		return "nobody", nil
	}
	if group, err := user.LookupGroupId(current.Gid); err == nil {
		groups = append(groups, group.Name)
	}
	return current.Username, groups
}

// CreateOption changes how Create and OpenFile make a file. It has no effect on a file that exists.
type CreateOption func(*createOptions)

type createOptions struct {
	replicas int
	mode     fs.FileMode
	synced   bool
}

// WithReplicas is the number of replicas of each chunk: 1 to gfs.MaxReplicas; 0 means the cluster's default.
func WithReplicas(n int) CreateOption { return func(o *createOptions) { o.replicas = n } }

// WithMode is the file's permission bits; the default is 0o644. There is no umask.
func WithMode(mode fs.FileMode) CreateOption { return func(o *createOptions) { o.mode = mode } }

// Synced makes every acknowledgement of the file wait until all replicas have the bytes on disk (fsync).
func Synced() CreateOption { return func(o *createOptions) { o.synced = true } }

func newCreateOptions(opts []CreateOption) (createOptions, error) {
	o := createOptions{mode: 0o644}
	for _, opt := range opts {
		opt(&o)
	}
	if o.replicas < 0 || o.replicas > gfs.MaxReplicas {
		return o, gfs.Errorf(gfs.CodeInvalid, "%d replicas: want 1 to %d, or 0 for the default", o.replicas, gfs.MaxReplicas)
	}
	if o.mode&^fs.ModePerm != 0 {
		return o, gfs.Errorf(gfs.CodeInvalid, "mode %v: only permission bits (0 to 0777) are kept", o.mode)
	}
	return o, nil
}
