package sft

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func writeConfig(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfigFilesAreReadAsTRLsCommandLineDoes(t *testing.T) {
	yaml := `
# a file for trl sft --config
output_dir: out
learning_rate: 2e-4
num_train_epochs: 2
max_length: null
packing: false
eval_strategy: steps
eval_steps: 0.25
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr_rate: 0.1}
warmup_steps: 10
optim: paged_adamw_8bit
max_grad_norm: 0
completion_only_loss: false
report_to: tensorboard
resume_from_checkpoint: true
pad_to_multiple_of: auto
save_total_limit: null
bf16: true
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: false}
dataloader_num_workers: 4
push_to_hub: false
`
	json := `{"output_dir": "out", "learning_rate": 0.0002, "num_train_epochs": 2.0, "max_length": -1, "eval_strategy": "steps", "eval_steps": 0.25,
		"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": "{\"min_lr_rate\": 0.1}", "warmup_steps": 10.0, "optim": "paged_adamw_8bit",
		"max_grad_norm": 0.0, "completion_only_loss": false, "report_to": ["tensorboard"], "resume_from_checkpoint": "last"}`
	want := SFTConfig{OutputDir: "out", LearningRate: 2e-4, NumTrainEpochs: 2, MaxLength: NoMaxLength, EvalStrategy: Steps, EvalSteps: 0.25,
		LRSchedulerType: CosineWithMinLR, LRSchedulerKwargs: map[string]any{"min_lr_rate": 0.1}, WarmupSteps: 10, Optim: "paged_adamw_8bit",
		MaxGradNorm: new(0.0), CompletionOnlyLoss: new(false), ReportTo: []string{"tensorboard"}, ResumeFromCheckpoint: LastCheckpoint}
	for name, text := range map[string]string{"c.yaml": yaml, "c.json": json} {
		got, err := LoadSFTConfig(writeConfig(t, name, text))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, want)
		}
	}
	if got, err := LoadSFTConfig(writeConfig(t, "empty.yaml", "# nothing\n")); err != nil || !reflect.DeepEqual(got, SFTConfig{}) {
		t.Errorf("an empty file gives %+v, %v", got, err)
	}
}

func TestConfigFilesWithFaultsAreRefused(t *testing.T) {
	for _, c := range []struct {
		text string
		says []string
	}{
		{"packing: true\nlearnin_rate: 1e-4", []string{"line 2", `"learnin_rate"`, `nearest is "learning_rate"`}},
		{"max_seq_length: 4", []string{`"max_seq_length"`, `"max_length"`}},
		{"max_length: '2048'", []string{"line 1", `max_length is "2048"`, "a whole number"}},
		{"max_length: 20.5", []string{"max_length is 20.5", "a whole number"}},
		{"packing: 1", []string{"packing is 1", "true or false"}},
		{"lr_scheduler_type: [cosine]", []string{"lr_scheduler_type is a list", "a text"}},
		{"lr_scheduler_kwargs: 3", []string{"lr_scheduler_kwargs is 3", "an object"}},
		{"seed: 0", []string{"seed is 0", "default 42"}},
		{"adam_beta1: 0.0", []string{"adam_beta1 is 0", "0.9"}},
		{"fp16: true", []string{"fp16 is true", "models.Options.DType"}},
		{"bf16: false", []string{"bf16 is false", "Float32"}},
		{"fsdp: full_shard", []string{`fsdp is "full_shard"`, "leave the key out"}},
		{"- a\n- b", []string{"line 1", "want an object"}},
		{"a: [", []string{"c.yaml"}},
	} {
		_, err := LoadSFTConfig(writeConfig(t, "c.yaml", c.text))
		wantError(t, err, append(c.says, "sft: ", "c.yaml")...)
	}
	_, err := LoadSFTConfig("no/such.yaml")
	wantError(t, err, "no/such.yaml")
}

func TestSettingsOfACheckpointCanBeReadBack(t *testing.T) {
	c := testConfig(t)
	c.SaveStrategy, c.WarmupSteps, c.LRSchedulerType, c.LRSchedulerKwargs = Steps, 2, CosineWithMinLR, map[string]any{"min_lr_rate": 0.5}
	report := mustTrain(t, newToyModel(), zen(), c)
	got, err := LoadSFTConfig(filepath.Join(report.LastCheckpoint, argsFile))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := mustJSON(t, got), mustJSON(t, c.withDefaults()); a != b {
		t.Errorf("read back\n%s\nwas\n%s", a, b)
	}
}

func ExampleLoadSFTConfig() {
	dir, err := os.MkdirTemp("", "loris")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "sft.yaml")
	if err := os.WriteFile(path, []byte("learning_rate: 2e-4\npacking: true\nmax_length: 2048\n"), 0o666); err != nil {
		panic(err)
	}
	c, err := LoadSFTConfig(path)
	if err != nil {
		panic(err)
	}
	fmt.Println(c.LearningRate, c.Packing, c.MaxLength)
	// Output: 0.0002 true 2048
}

// TRL's own defaults pass, whether there is a field for them or not, and mean what no value means.
func TestEveryFieldOfTRLIsKnownAndHasItsDefault(t *testing.T) {
	var fixture struct{ Fields map[string]json.RawMessage }
	readFixture(t, "fields.json", &fixture)
	otherwise := map[string]string{ // defaults that differ in name only, or on purpose
		"data_seed":          "42",    // None is seed
		"eval_steps":         "10",    // None is logging_steps
		"eval_packing":       "false", // None is packing
		"greater_is_better":  "true",  // None follows from metric_for_best_model
		"output_dir":         "trainer_output",
		"run_name":           "trainer_output",
		"max_grad_norm":      "1",
		"report_to":          "[none]",
		"pad_to_multiple_of": "0",
	}
	defaults := SFTConfig{}.withDefaults()
	ours := configFields(&defaults)
	for name, value := range fixture.Fields {
		if name == "max_length" && string(value) == "null" {
			continue
		}
		c, err := ParseSFTConfig(fmt.Appendf(nil, "{%q: %s}", name, value))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		field, ok := ours[name]
		if !ok {
			continue
		}
		c = c.withDefaults()
		got, none := configFields(&c)[name], field
		if a, b := plain(got), plain(none); a != b && otherwise[name] != a {
			t.Errorf("%s: TRL's default is %s, which reads as %s; without it it is %s", name, value, a, b)
		}
	}
	for name := range otherKeys {
		if _, ok := fixture.Fields[name]; !ok {
			t.Errorf("TRL has no %s", name)
		}
		if _, ok := ours[name]; ok {
			t.Errorf("%s is a field", name)
		}
	}
}

// plain is a field's value behind its pointer.
func plain(v reflect.Value) string {
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	return fmt.Sprint(v.Interface())
}
