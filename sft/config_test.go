package sft

import (
	"encoding/json"
	"testing"

	"github.com/loris-ml/loris/internal/training"
)

func TestZeroConfigHasTRLsDefaults(t *testing.T) {
	var got map[string]any
	if err := json.Unmarshal([]byte(mustJSON(t, SFTConfig{}.withDefaults())), &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"output_dir": "trainer_output", "max_length": 1024.0, "packing": false, "packing_strategy": "bfd", "dataset_text_field": "text",
		"shuffle_dataset": false, "completion_only_loss": nil, "assistant_only_loss": false, "loss_type": "nll",
		"per_device_train_batch_size": 8.0, "per_device_eval_batch_size": 8.0, "gradient_accumulation_steps": 1.0,
		"num_train_epochs": 3.0, "max_steps": -1.0, "learning_rate": 2e-5, "lr_scheduler_type": "linear", "warmup_steps": 0.0,
		"weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "max_grad_norm": 1.0,
		"logging_strategy": "steps", "logging_steps": 10.0, "logging_first_step": false, "eval_strategy": "no", "eval_delay": 0.0,
		"save_strategy": "steps", "save_steps": 500.0, "save_only_model": false, "seed": 42.0, "data_seed": 42.0,
		"train_sampling_strategy": "random", "dataloader_drop_last": false, "load_best_model_at_end": false, "eval_steps": 10.0,
		"eval_packing": false, "residual_budget": "auto", "ignore_data_skip": false,
	} {
		if have, ok := got[name]; !ok || have != want {
			t.Errorf("%s is %v, want %v", name, have, want)
		}
	}
	if err := (SFTConfig{}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidateNamesFieldValueAndRemedy(t *testing.T) {
	rows := []Row{{"text": "a"}}
	for _, c := range []struct {
		config SFTConfig
		says   []string
	}{
		{SFTConfig{MaxLength: -5}, []string{"MaxLength", "-5", "NoMaxLength"}},
		{SFTConfig{Packing: true, MaxLength: NoMaxLength}, []string{"MaxLength", "block length"}},
		{SFTConfig{EvalPacking: new(true), MaxLength: NoMaxLength}, []string{"MaxLength", "block length"}},
		{SFTConfig{PackingStrategy: "ffd"}, []string{"PackingStrategy", `"ffd"`, "bfd, bfd_split, wrapped"}},
		{SFTConfig{ExcessLengthStrategy: "cut"}, []string{"ExcessLengthStrategy", `"cut"`, "truncate"}},
		{SFTConfig{PadToMultipleOf: -1}, []string{"PadToMultipleOf", "-1"}},
		{SFTConfig{PerDeviceTrainBatchSize: -1}, []string{"PerDeviceTrainBatchSize", "-1"}},
		{SFTConfig{PerDeviceEvalBatchSize: -1}, []string{"PerDeviceEvalBatchSize", "-1"}},
		{SFTConfig{GradientAccumulationSteps: -2}, []string{"GradientAccumulationSteps", "-2"}},
		{SFTConfig{NumTrainEpochs: -1}, []string{"NumTrainEpochs", "-1"}},
		{SFTConfig{MaxSteps: -2}, []string{"MaxSteps", "-2"}},
		{SFTConfig{LearningRate: -1}, []string{"LearningRate", "-1"}},
		{SFTConfig{LRSchedulerType: "greedily"}, []string{"LRSchedulerType", `"greedily"`, "cosine_with_min_lr"}},
		{SFTConfig{LRSchedulerKwargs: map[string]any{"power": 2}}, []string{"LRSchedulerKwargs", `"power"`, "the linear schedule reads none"}},
		{SFTConfig{LRSchedulerType: CosineWithMinLR}, []string{"LRSchedulerKwargs", "min_lr"}},
		{SFTConfig{LRSchedulerType: Polynomial, LearningRate: 1e-8}, []string{"LearningRate", "lr_end"}},
		{SFTConfig{WarmupSteps: 1.5}, []string{"WarmupSteps", "1.5", "whole number"}},
		{SFTConfig{WarmupRatio: 1}, []string{"WarmupRatio", "1"}},
		{SFTConfig{WarmupRatio: 0.1, WarmupSteps: 3}, []string{"WarmupRatio", "WarmupSteps is 3"}},
		{SFTConfig{Optim: "adagrad"}, []string{"Optim", `"adagrad"`, "adamw_torch"}},
		{SFTConfig{LossType: "mse"}, []string{"LossType", `"mse"`, "nll, chunked_nll, dft"}},
		{SFTConfig{LossType: "dft", LabelSmoothingFactor: 0.1}, []string{"LabelSmoothingFactor", "0.1", "dft cannot be smoothed"}},
		{SFTConfig{LabelSmoothingFactor: 1}, []string{"LabelSmoothingFactor", "1", "below 1"}},
		{SFTConfig{Loss: &Loss{Name: "own"}}, []string{"Loss", "incomplete", "PerLabel"}},
		{SFTConfig{Loss: training.DFT(), LossType: "dft"}, []string{"Loss", "replaces LossType"}},
		{SFTConfig{NEFTuneNoiseAlpha: -1}, []string{"NEFTuneNoiseAlpha", "-1"}},
		{SFTConfig{Optim: "sgd", OptimArgs: "speed=3"}, []string{"OptimArgs", `"speed=3"`, "momentum"}},
		{SFTConfig{LoRAPlusLRRatio: 0.5}, []string{"LoRAPlusLRRatio", "0.5", "at least 1"}},
		{SFTConfig{LoRAPlusLREmbedding: 1e-5}, []string{"LoRAPlusLREmbedding", "1e-05", "set LoRAPlusLRRatio"}},
		{SFTConfig{ReportTo: []string{"wandb"}}, []string{"ReportTo", `"wandb"`, "tensorboard, jsonl, csv"}},
		{SFTConfig{LossWatchdogThreshold: -2}, []string{"LossWatchdogThreshold", "-2"}},
		{SFTConfig{LossWatchdogPatience: -2}, []string{"LossWatchdogPatience", "-2"}},
		{SFTConfig{LRSchedulerType: ReduceLROnPlateau}, []string{"LRSchedulerType", "follows evaluations"}},
		{SFTConfig{LRSchedulerType: Greedy}, []string{"LRSchedulerType", "follows evaluations"}},
		{SFTConfig{LRSchedulerType: Greedy, EvalStrategy: Epoch, EvalDataset: FromRows(rows), LRSchedulerKwargs: map[string]any{"smooth": 1}}, []string{"LRSchedulerKwargs", "smooth"}},
		{SFTConfig{LRSchedulerType: ReduceLROnPlateau, EvalStrategy: Epoch, EvalDataset: FromRows(rows), LRSchedulerKwargs: map[string]any{"factor": 1}}, []string{"LRSchedulerKwargs", "factor"}},
		{SFTConfig{LRSchedulerType: WarmupStableDecay}, []string{"LRSchedulerKwargs", "num_decay_steps"}},
		{SFTConfig{LRSchedulerType: WarmupStableDecay, LRSchedulerKwargs: map[string]any{"num_decay_steps": 2, "decay_type": "sudden"}}, []string{"decay_type is sudden", "1-sqrt"}},
		{SFTConfig{LRSchedulerType: Cosine, LRSchedulerKwargs: map[string]any{"num_cycles": "two"}}, []string{"num_cycles is two", "a number"}},
		{SFTConfig{WeightDecay: -0.1}, []string{"WeightDecay", "-0.1"}},
		{SFTConfig{AdamBeta1: 1}, []string{"AdamBeta1", "1"}},
		{SFTConfig{AdamBeta2: -1}, []string{"AdamBeta2", "-1"}},
		{SFTConfig{AdamEpsilon: -1}, []string{"AdamEpsilon", "-1"}},
		{SFTConfig{MaxGradNorm: new(-1.0)}, []string{"MaxGradNorm", "-1"}},
		{SFTConfig{LoggingSteps: 2.5}, []string{"LoggingSteps", "2.5"}},
		{SFTConfig{LoggingStrategy: "always"}, []string{"LoggingStrategy", `"always"`}},
		{SFTConfig{SaveSteps: -1}, []string{"SaveSteps", "-1"}},
		{SFTConfig{SaveTotalLimit: -1}, []string{"SaveTotalLimit", "-1"}},
		{SFTConfig{SaveStrategy: "often"}, []string{"SaveStrategy", `"often"`}},
		{SFTConfig{EvalStrategy: "often"}, []string{"EvalStrategy", `"often"`}},
		{SFTConfig{EvalStrategy: Steps}, []string{"EvalDataset", "give rows"}},
		{SFTConfig{EvalStrategy: Steps, EvalSteps: -1, EvalDataset: FromRows(rows)}, []string{"EvalSteps", "-1"}},
		{SFTConfig{TrainSamplingStrategy: "best"}, []string{"TrainSamplingStrategy", `"best"`}},
		{SFTConfig{FormattingFunc: func(Row) (string, error) { return "", nil }, CompletionOnlyLoss: new(true)}, []string{"CompletionOnlyLoss", "FormattingFunc"}},
		{SFTConfig{FormattingFunc: func(Row) (string, error) { return "", nil }, AssistantOnlyLoss: true}, []string{"AssistantOnlyLoss", "FormattingFunc"}},
		{SFTConfig{LoadBestModelAtEnd: true}, []string{"EvalStrategy", "best checkpoint"}},
		{SFTConfig{SaveStrategy: Best}, []string{"EvalStrategy", "best checkpoint"}},
		{SFTConfig{LoadBestModelAtEnd: true, EvalStrategy: Epoch, EvalDataset: FromRows(rows)}, []string{"SaveStrategy", `"epoch"`}},
		{SFTConfig{LoadBestModelAtEnd: true, EvalStrategy: Steps, EvalSteps: 3, SaveSteps: 10, EvalDataset: FromRows(rows)}, []string{"SaveSteps", "multiple of EvalSteps"}},
		{SFTConfig{LoadBestModelAtEnd: true, EvalStrategy: Steps, SaveOnlyModel: true, EvalDataset: FromRows(rows)}, []string{"SaveOnlyModel"}},
	} {
		wantError(t, c.config.Validate(), append(c.says, "sft: SFTConfig.")...)
	}
}

func TestValidateReportsAllFaultsAtOnce(t *testing.T) {
	wantError(t, SFTConfig{MaxLength: -5, LearningRate: -1, Optim: "rprop"}.Validate(), "MaxLength", "LearningRate", "Optim")
}

// optimizerTold notes the optimizer that a session is asked for.
type optimizerTold struct {
	*toyModel
	optim string
}

func (m *optimizerTold) NewSession(o SessionOptions) (Session, error) {
	m.optim = o.Optim
	return m.toyModel.NewSession(o)
}

func TestTheOptimizersNameReachesTheSession(t *testing.T) {
	c := testConfig(t)
	c.MaxSteps = 1
	for _, name := range []string{"", "adamw_torch_fused", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "lion_8bit", "lion_32bit"} {
		c.Optim = name
		m := &optimizerTold{toyModel: newToyModel()}
		mustTrain(t, m, zen(), c)
		if want := c.withDefaults().Optim; m.optim != want {
			t.Errorf("Optim %q: the session is asked for %q", name, m.optim)
		}
	}
}
