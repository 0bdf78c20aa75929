// The race detector has nothing to see in processes that crash, and makes them slow.
//go:build !race

package sft_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loris-ml/loris/sft"
)

// crashFolder names the OutputDir of a process that the tests below start, and crash.
const crashFolder = "LORIS_TEST_CRASH_FOLDER"

// crashConfig saves, rotates and evaluates often; a process that starts anew goes on from the last checkpoint.
func crashConfig(dir string, evalRows *sft.Dataset) sft.SFTConfig {
	return sft.SFTConfig{OutputDir: dir, MaxSteps: 24, PerDeviceTrainBatchSize: 1, GradientAccumulationSteps: 2, LearningRate: 5e-3, MaxLength: 48,
		Packing: true, LoggingSteps: 3, EvalDataset: evalRows, EvalStrategy: sft.Steps, EvalSteps: 7, SaveStrategy: sft.Steps, SaveSteps: 2, SaveTotalLimit: 2, ReportTo: []string{"all"},
		ResumeFromCheckpoint: sft.AutoCheckpoint, Logger: silent, DisableTQDM: true}
}

// TestCrashingProcess is the process that is crashed; beside that it does nothing.
func TestCrashingProcess(t *testing.T) {
	dir := os.Getenv(crashFolder)
	if dir == "" {
		t.Skip("another test starts it")
	}
	_, rows, evalRows := readCurves(t)
	c := crashConfig(dir, evalRows)
	c.Callbacks = []sft.Callback{{OnTrainBegin: func(*sft.Event) error {
		_, err := os.Stdout.WriteString("training\n")
		return err
	}}}
	if _, err := train(t, t.Context(), "", rows, c); err != nil {
		t.Fatal(err)
	}
}

// crashing starts the process.
func crashing(t *testing.T, dir string) (p *exec.Cmd, out *bytes.Buffer, begun <-chan struct{}) {
	t.Helper()
	p = exec.Command(os.Args[0], "-test.run=^TestCrashingProcess$", "-test.timeout=60s")
	p.Env = append(os.Environ(), crashFolder+"="+dir)
	w := &notifying{begun: make(chan struct{})}
	p.Stdout, p.Stderr = w, w
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p, &w.out, w.begun
}

// notifying closes begun at the first byte.
type notifying struct {
	out   bytes.Buffer
	begun chan struct{}
}

func (n *notifying) Write(b []byte) (int, error) {
	if n.out.Len() == 0 {
		close(n.begun)
	}
	return n.out.Write(b)
}

// outcome is what training leaves: the last checkpoint's adapter and optimizer.
func outcome(t *testing.T, dir string) (files []byte) {
	t.Helper()
	for _, name := range []string{"adapter_model.safetensors", "optimizer.safetensors"} {
		data, err := os.ReadFile(filepath.Join(dir, "checkpoint-24", name))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, data...)
	}
	return files
}

func TestKilledProcessesResumeAsIfNothingHadHappened(t *testing.T) {
	kills := 20
	if testing.Short() {
		kills = 4
	}
	straight := t.TempDir()
	start := time.Now()
	p, out, _ := crashing(t, straight)
	if err := p.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	whole := time.Since(start)
	want := outcome(t, straight)

	dir, killed, resumed := t.TempDir(), 0, 0
	for killed < kills {
		p, out, begun := crashing(t, dir)
		ended := make(chan error, 1)
		go func() { ended <- p.Wait() }()
		select {
		case <-begun:
		case err := <-ended:
			t.Fatalf("after %d kills: %v\n%s", killed, err, out)
		}
		select {
		case err := <-ended: // whole, after some kills: begin anew
			if err != nil {
				t.Fatalf("after %d kills: %v\n%s", killed, err, out)
			}
			if !bytes.Equal(outcome(t, dir), want) {
				t.Fatalf("after %d kills: adapter and optimizer differ from those of a straight run", killed)
			}
			dir, resumed = t.TempDir(), resumed+1
		case <-time.After(time.Duration(rand.Int64N(int64(whole) / 3))):
			if err := p.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Fatal(err)
			}
			<-ended
			killed++
		}
	}
	p, out, _ = crashing(t, dir)
	if err := p.Wait(); err != nil {
		t.Fatalf("after %d kills: %v\n%s", killed, err, out)
	}
	if !bytes.Equal(outcome(t, dir), want) {
		t.Errorf("after %d kills: adapter and optimizer differ from those of a straight run", killed)
	}
	t.Logf("a straight run takes %v; %d kills, %d runs ended between them", whole, killed, resumed)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("left over: %s", e.Name())
		}
	}
}
