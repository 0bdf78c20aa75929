package sft

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"io"
	"math"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestEventRecordsAreTensorBoards(t *testing.T) {
	var fixture struct{ Records map[string][]byte }
	readFixture(t, "events.json", &fixture)
	summary := append(scalarValue("train/loss", 2.3841999), scalarValue("train/learning_rate", 2e-5)...)
	for name, e := range map[string]event{
		"version": {seconds: 1.5, version: "brain.Event:2"},
		"scalars": {seconds: 1700000000.25, step: 300, summary: summary},
		"start":   {seconds: 3, step: 41, start: true},
		"text":    {seconds: 4, summary: textValue("args/text_summary", "größer")},
	} {
		if got := e.record(); !bytes.Equal(got, fixture.Records[name]) {
			t.Errorf("%s:\n%x, TensorBoard\n%x", name, got, fixture.Records[name])
		}
	}
}

// reported trains with all reports, is cancelled after 5 steps, and resumed.
func reported(t *testing.T) (SFTConfig, *Report) {
	t.Helper()
	c := testConfig(t)
	c.ReportTo, c.RunName, c.LoggingSteps = []string{"all"}, "faq", 2
	c.EvalDataset, c.EvalStrategy, c.EvalSteps, c.SaveStrategy = FromRows(zen()[:5]), Steps, 3, Steps
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c.Callbacks = []Callback{{OnStepEnd: func(e *Event) error {
		if e.State.GlobalStep == 5 {
			cancel()
		}
		return nil
	}}}
	model := newToyModel()
	if _, err := mustTrainer(t, model, zen(), c).Train(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	c.ResumeFromCheckpoint = LastCheckpoint
	return c, mustTrain(t, model, zen(), c)
}

func TestReportsOfAResumedRunAreTheLogOnce(t *testing.T) {
	c, report := reported(t)
	var lines []Metrics
	text, err := os.ReadFile(filepath.Join(c.OutputDir, jsonlFile))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var m Metrics
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, m)
	}
	f, err := os.Open(filepath.Join(c.OutputDir, csvFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) != len(report.LogHistory) || len(table) != len(lines)+1 || table[0][0] != "step" {
		t.Fatalf("%d JSON lines and a table of %d with %v for %d lines of the log", len(lines), len(table), table[0], len(report.LogHistory))
	}
	for i, want := range report.LogHistory {
		filled := 0
		for k, cell := range table[i+1] {
			if cell == "" {
				continue
			}
			filled++
			v, err := strconv.ParseFloat(cell, 64)
			if w, ok := want.Get(table[0][k]); err != nil || !ok || v != w {
				t.Errorf("row %d, %s: %q, the log has %v", i+1, table[0][k], cell, w)
			}
		}
		if filled != len(want) || len(lines[i]) != len(want) {
			t.Errorf("line %d has %d cells and %d JSON values for %v", i, filled, len(lines[i]), want)
		}
		for _, m := range want {
			if v, _ := lines[i].Get(m.Name); v != m.Value {
				t.Errorf("line %d: %s is %v, the log has %v", i, m.Name, v, m.Value)
			}
		}
	}
	events, err := filepath.Glob(filepath.Join(c.OutputDir, runsDir, "faq", "events.out.tfevents.*"))
	if err != nil || len(events) != 2 {
		t.Errorf("event files %v, %v", events, err)
	}
	if dir := os.Getenv("LORIS_TEST_KEEP_REPORTS"); dir != "" { // for scripts/check_tensorboard.py
		if err := os.CopyFS(dir, os.DirFS(c.OutputDir)); err != nil {
			t.Fatal(err)
		}
	}
	for _, plot := range []string{lossPlot, ratePlot, memoryPlot} {
		f, err := os.Open(filepath.Join(c.OutputDir, plot))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := png.Decode(f); err != nil {
			t.Errorf("%s: %v", plot, err)
		}
		f.Close()
	}
}

func TestModelCardHasTheRunsFacts(t *testing.T) {
	c, report := reported(t)
	text, err := os.ReadFile(filepath.Join(c.OutputDir, cardFile))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "---\n")
	front, body, ok := strings.Cut(rest, "---\n")
	var meta cardMetadata
	if err := yaml.Unmarshal([]byte(front), &meta); err != nil || !ok {
		t.Fatalf("front matter %q: %v", front, err)
	}
	if meta.ModelName != "faq" || meta.Library != "transformers" || !slices.Contains(meta.Tags, "sft") {
		t.Errorf("front matter %+v", meta)
	}
	eval, _ := report.LogHistory[len(report.LogHistory)-2].Get("eval_loss")
	for _, says := range []string{"# Model Card for faq", "| rows | 13 |", "| steps | 8 of 8 (2.00 epochs) |", "| batch size | 2 × 2 accumulated |",
		"| learning rate | 0.03, linear, 0 warmup steps |", fmt.Sprintf("| eval_loss | %.4f | 8 |", eval), "| optimizer | adamw_torch_fused |"} {
		if !strings.Contains(body, says) {
			t.Errorf("the card does not say %q:\n%s", says, body)
		}
	}
}

func TestMonitorServesTheLastValues(t *testing.T) {
	monitor := new(Monitor)
	get := func() string {
		w := httptest.NewRecorder()
		monitor.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return w.Body.String()
	}
	during := ""
	c := testConfig(t)
	c.RunName, c.SaveStrategy, c.SaveSteps = "a \"b\"\n", Steps, 4
	c.Callbacks = []Callback{monitor.Callback(), {OnSave: func(*Event) error { during = get(); return nil }}}
	report := mustTrain(t, newToyModel(), zen(), c)
	if want := `loris_sft_running{run="a \"b\"\n"} 1` + "\n"; !strings.Contains(during, want) || !strings.Contains(during, "loris_sft_steps{run=\"a \\\"b\\\"\\n\"}") {
		t.Errorf("during the run: %s", during)
	}
	after := get()
	for _, want := range []string{
		`loris_sft_running{run="a \"b\"\n"} 0`, `loris_sft_checkpoints{run="a \"b\"\n"} 2`, `loris_sft_max_steps{run="a \"b\"\n"} 8`,
		"# TYPE loris_sft_loss gauge", fmt.Sprintf(`loris_sft_train_loss{run="a \"b\"\n"} %v`, report.TrainingLoss), "loris_sft_memory_bytes",
	} {
		if !strings.Contains(after, want) {
			t.Errorf("no %q in\n%s", want, after)
		}
	}
	monitor.Forget(c.RunName)
	if text := get(); text != "" {
		t.Errorf("forgotten, but there is %q", text)
	}
}

func TestSamplesAreGeneratedAfterEvaluations(t *testing.T) {
	var out bytes.Buffer
	c := testConfig(t)
	c.EvalDataset, c.EvalStrategy, c.EvalSteps = FromRows(zen()[:2]), Steps, 4
	type key struct{}
	c.Callbacks = []Callback{GenerationSamples(&out, func(ctx context.Context, prompt string) (string, error) {
		return fmt.Sprint(prompt, "? ", ctx.Value(key{})), nil
	}, "who", "where")}
	if _, err := mustTrainer(t, newToyModel(), zen(), c).Train(context.WithValue(t.Context(), key{}, "yes")); err != nil {
		t.Fatal(err)
	}
	var got []Sample
	for d := json.NewDecoder(&out); ; {
		var s Sample
		if err := d.Decode(&s); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		got = append(got, s)
	}
	want := []Sample{{4, "who", "who? yes"}, {4, "where", "where? yes"}, {8, "who", "who? yes"}, {8, "where", "where? yes"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	c.Callbacks = []Callback{GenerationSamples(nil, func(context.Context, string) (string, error) { return "", errBroken }, "who")}
	_, err := mustTrainer(t, newToyModel(), zen(), c).Train(t.Context())
	wantError(t, err, "step 4", `"who"`, errBroken.Error())
}

func TestMetricsOfOnesOwnTellTheBestModel(t *testing.T) {
	c := testConfig(t)
	c.EvalDataset, c.EvalStrategy, c.EvalSteps, c.SaveStrategy, c.MetricForBestModel = FromRows(zen()[:2]), Steps, 2, Best, "exact_match"
	values := []float64{0.1, 0.5, 0.4, 0.45}
	c.ComputeMetrics = func(context.Context) (m Metrics, err error) {
		m = Metrics{{"exact_match", values[0]}}
		values = values[1:]
		return m, nil
	}
	report := mustTrain(t, newToyModel(), zen(), c)
	if report.BestMetric == nil || *report.BestMetric != 0.5 || filepath.Base(report.BestCheckpoint) != "checkpoint-4" {
		t.Errorf("best %v in %s", report.BestMetric, report.BestCheckpoint)
	}
	for _, bad := range []Metrics{{{"loss", 1}}, {{"", 1}}, {{"f1", math.NaN()}}} {
		c.ComputeMetrics = func(context.Context) (Metrics, error) { return bad, nil }
		_, err := mustTrainer(t, newToyModel(), zen(), c).Train(t.Context())
		wantError(t, err, "ComputeMetrics", fmt.Sprintf("%q", bad[0].Name))
	}
}

func TestPerplexityIsThatOfTheLoss(t *testing.T) {
	m, err := mustTrainer(t, newToyModel(), zen(), testConfig(t)).Evaluate(t.Context(), FromRows(zen()[:3]))
	if err != nil {
		t.Fatal(err)
	}
	loss, _ := m.Get("eval_loss")
	if p, ok := m.Get("eval_perplexity"); !ok || math.Abs(p/math.Exp(loss)-1) > 1e-15 {
		t.Errorf("perplexity %v of loss %v", p, loss)
	}
	if c := (SFTConfig{MetricForBestModel: "perplexity"}).withDefaults(); *c.GreaterIsBetter {
		t.Error("a greater perplexity counts as better")
	}
}
