package sft

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// zen are rows of different lengths, none of them a multiple of anything.
func zen() (rows []Row) {
	for line := range strings.SplitSeq(`Beautiful is better than ugly.
Explicit is better than implicit.
Simple is better than complex.
Complex is better than complicated.
Flat is better than nested.
Sparse is better than dense.
Readability counts.
Special cases aren't special enough to break the rules.
Although practicality beats purity.
Errors should never pass silently.
Unless explicitly silenced.
In the face of ambiguity, refuse the temptation to guess.
There should be one-- and preferably only one --obvious way to do it.`, "\n") {
		rows = append(rows, Row{"text": line})
	}
	return rows
}

// testConfig makes epochs of 7 micro-steps of zen's 13 rows, the last one short, and of 4 steps, the last one short too.
func testConfig(t *testing.T) SFTConfig {
	return SFTConfig{
		OutputDir: t.TempDir(), MaxLength: 64, PerDeviceTrainBatchSize: 2, PerDeviceEvalBatchSize: 4, GradientAccumulationSteps: 2,
		NumTrainEpochs: 2, LearningRate: 0.03, LoggingSteps: 3, SaveStrategy: No, Logger: quiet, DisableTQDM: true,
	}
}

func mustTrainer(t *testing.T, m Model, rows []Row, c SFTConfig) *SFTTrainer {
	t.Helper()
	trainer, err := NewSFTTrainer(m, toyTokenizer{}, FromRows(rows), c)
	if err != nil {
		t.Fatal(err)
	}
	return trainer
}

func mustTrain(t *testing.T, m Model, rows []Row, c SFTConfig) *Report {
	t.Helper()
	report, err := mustTrainer(t, m, rows, c).Train(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// losses are the loss values of the training lines.
func losses(history []Metrics) (values []float64) {
	for _, m := range history {
		if v, ok := m.Get("loss"); ok {
			values = append(values, v)
		}
	}
	return values
}

// untimed drops what depends on the clock, and the summary line, which counts the steps of one call only.
func untimed(history []Metrics) (lines []Metrics) {
	for _, m := range history {
		if _, ok := m.Get("train_loss"); ok {
			continue
		}
		lines = append(lines, slices.DeleteFunc(slices.Clone(m), func(e Metric) bool {
			return strings.HasSuffix(e.Name, "_runtime") || strings.HasSuffix(e.Name, "_per_second")
		}))
	}
	return lines
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// wantError requires an error that says all of the given.
func wantError(t *testing.T, err error, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one that says %q", says)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error %q does not say %q", err, s)
		}
	}
}

func checkpoints(t *testing.T, dir string) (names []string) {
	t.Helper()
	paths, err := findCheckpoints(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		names = append(names, filepath.Base(p))
	}
	return names
}

// logTo returns a logger and what it has written.
func logTo() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, nil)), &b
}

var errBroken = errors.New("device is gone")
