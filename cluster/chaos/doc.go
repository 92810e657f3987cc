// Package chaos runs a cluster of separate processes under load and faults and checks afterwards that nothing that
// was acknowledged is lost, torn or there twice, and that all replicas are the same.
//
// The faults are real: SIGKILL, and SIGSTOP followed by SIGCONT. A seed decides who is struck and when, so a run can
// be repeated as far as the machine's timing allows. Producers and readers are clients in the running process; an
// error that one of them sees fails the run, since the library is to absorb every fault.
package chaos
