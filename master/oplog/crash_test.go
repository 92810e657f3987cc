package oplog

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// victimFolder names the folder in which the test binary, started again, is a master to be killed.
const victimFolder = "CAIRN_OPLOG_VICTIM"

// runVictim proposes records from several callers for ever and prints each that was acknowledged.
func runVictim(dir string) {
	l, err := Open(context.Background(), Config{Cluster: "test", ID: "m1", Dir: dir, Machine: newTable(), SegmentBytes: 2 << 20, CheckpointBytes: 64 << 10})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for !l.Acting() {
		<-l.Changes()
	}
	var printing sync.Mutex
	var callers sync.WaitGroup
	for c := range 8 {
		callers.Go(func() {
			for i := 0; ; i++ {
				record := fmt.Sprintf("%d-%d-%d=%s", os.Getpid(), c, i, strings.Repeat("v", 50))
				if _, err := l.Propose(context.Background(), []byte(record)); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				key, _, _ := strings.Cut(record, "=")
				printing.Lock()
				fmt.Println(key)
				printing.Unlock()
			}
		})
	}
	callers.Wait()
}

// What was acknowledged is there after kill -9, whatever the process was doing: checkpoints, new segments.
func TestKilledMasterKeepsWhatItAcknowledged(t *testing.T) {
	dir := t.TempDir()
	var acknowledged []string
	for round := range 6 {
		victim := exec.Command(os.Args[0])
		victim.Env = append(os.Environ(), victimFolder+"="+dir)
		victim.Stderr = os.Stderr
		out, err := victim.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			acknowledged = append(acknowledged, lines.Text())
			if n == 300+round*137 {
				if err := victim.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := victim.Wait(); err == nil {
			t.Fatal("the victim ended by itself")
		}
		if len(acknowledged) < (round+1)*300 {
			t.Fatalf("round %d: %d records in all: the victim ended early", round, len(acknowledged))
		}
	}
	machine := newTable()
	l := openActing(t, testConfig(t, dir, machine))
	rows := machine.state()
	lost := 0
	for _, key := range acknowledged {
		if _, ok := rows[key]; !ok {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d acknowledged records are lost", lost, len(acknowledged))
	}
	if machine.restored == 0 {
		t.Error("no checkpoint was written in all the rounds: the test shows less than it should")
	}
	mustClose(t, l)
}
