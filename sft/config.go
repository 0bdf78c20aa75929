package sft

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
)

// SFTConfig are the settings of a training run: trl.SFTConfig with the transformers.TrainingArguments that matter to it,
// under their names in Go case. A zero field stands for TRL's default; the json tags are TRL's own names.
//
// What TRL has and is absent here: precision (bf16, fp16) follows from how the model was loaded, gradient_checkpointing
// and activation_offloading are replaced by ResidualBudget, padding_free by fixed-shape packing, several evaluation sets
// by calls of Evaluate, other trackers than ReportTo's by Callbacks. auto_find_batch_size and pushing to a hub are not offered.
// One default differs on purpose: unpacked batches are padded to few lengths, so that few shapes are compiled
// (PadToMultipleOf). Rows are shuffled (ShuffleDataset) and visited (TrainSamplingStrategy "random") in the order that the same
// seeds give in TRL.
type SFTConfig struct {
	// OutputDir receives the folders checkpoint-<step>, trainer_state.json, plots and the model card README.md. "" is
	// "trainer_output".
	OutputDir string `json:"output_dir"`

	// MaxLength is the number of tokens to which examples are truncated, and the block length when packing.
	// 0 is 1024, NoMaxLength does not truncate.
	MaxLength int `json:"max_length"`
	// ExcessLengthStrategy says what becomes of examples longer than MaxLength: "" or "truncate" cuts them as TRL does,
	// "drop" leaves them out, "raise" refuses the data set. Not used by packing that splits (bfd_split, wrapped).
	ExcessLengthStrategy string `json:"excess_length_strategy"`
	// TruncationMode says what of a truncated example stays: "" or KeepStart, or KeepEnd. Packing keeps the start.
	TruncationMode string `json:"truncation_mode"`
	// Packing puts several examples into one row of MaxLength tokens; they do not see each other (except with Wrapped).
	Packing bool `json:"packing"`
	// PackingStrategy is "" or BFD, BFDSplit or Wrapped.
	PackingStrategy string `json:"packing_strategy"`
	// EvalPacking is whether EvalDataset is packed too; nil: as Packing.
	EvalPacking *bool `json:"eval_packing"`
	// PadToMultipleOf rounds the length of unpacked batches up. 0 is 64, and for more than 1024 tokens the eighth of a power of
	// two, so that few shapes are compiled; but not beyond MaxLength.
	PadToMultipleOf int `json:"pad_to_multiple_of"`

	// DatasetTextField is the column of plain-text rows. "" is "text".
	DatasetTextField string `json:"dataset_text_field"`
	// FormattingFunc turns a row into plain text; the row's own columns are then ignored.
	FormattingFunc func(Row) (string, error) `json:"-"`
	// ShuffleDataset shuffles once, with Seed, before and after packing. Epochs are shuffled anyway (TrainSamplingStrategy).
	ShuffleDataset bool `json:"shuffle_dataset"`
	// CompletionOnlyLoss trains only completions of prompt-completion rows. nil: yes if the first row has both.
	CompletionOnlyLoss *bool `json:"completion_only_loss"`
	// AssistantOnlyLoss trains only the assistant's turns of conversational rows: what {% generation %} marks in the chat
	// template. A published template without it is replaced by the variant that TRL trains with
	// (tokenizer.Tokenizer.TrainingTemplate); of another one it is what each turn adds, with its end-of-turn token.
	AssistantOnlyLoss bool `json:"assistant_only_loss"`
	// LastTurnOnlyLoss trains only the assistant's last turn of conversational rows. It says more than AssistantOnlyLoss,
	// which it implies. TRL has no such field.
	LastTurnOnlyLoss bool `json:"last_turn_only_loss"`
	// TokenCache is a folder that keeps tokenized rows for the next run with the same rows, tokenizer, chat template and
	// masks; it may be shared by several runs, and its files deleted while none runs. Tokens are then read from its files as
	// they are needed, instead of being held in memory. "": none is kept. TRL has datasets' cache for it.
	TokenCache string `json:"token_cache"`
	// ChatTemplatePath is a Jinja file (.jinja or .j2) whose text becomes the tokenizer's chat template, as with its
	// SetChatTemplate, or another tokenizer (a folder, a GGUF file, the id of a cached model) whose chat template and EOS token
	// are taken. TRL adds the other's tokens to vocabulary and model; here they must be there. "": the tokenizer's own stays.
	ChatTemplatePath string `json:"chat_template_path"`
	// EOSToken ends plain-text examples and completions. "" is the tokenizer's.
	EOSToken string `json:"eos_token"`
	// PadToken fills short rows; no number depends on it. "" is the tokenizer's, or its EOS token.
	PadToken string `json:"pad_token"`
	// LossType is "" or "nll", the cross entropy per label, or "dft", each label's cross entropy times its probability
	// (arXiv:2508.05629); "chunked_nll" is an alias of "nll".
	LossType string `json:"loss_type"`
	// LabelSmoothingFactor mixes the mean cross entropy over the vocabulary into "nll" (arXiv:1512.00567): (1-f)·nll + f·mean.
	LabelSmoothingFactor float64 `json:"label_smoothing_factor"`
	// NEFTuneNoiseAlpha adds uniform noise in ±alpha/√(length·hidden) to the embeddings while training (arXiv:2310.05914);
	// length is that of the batch with its padding. 0 adds none.
	NEFTuneNoiseAlpha float64 `json:"neftune_noise_alpha"`
	// Loss replaces LossType and LabelSmoothingFactor by another loss of the logits.
	Loss *Loss `json:"-"`
	// Collate replaces how rows become batches; nil is [CollateRows].
	Collate Collator `json:"-"`

	PerDeviceTrainBatchSize   int  `json:"per_device_train_batch_size"` // rows of a micro-step; 0 is 8
	PerDeviceEvalBatchSize    int  `json:"per_device_eval_batch_size"`  // 0 is 8
	GradientAccumulationSteps int  `json:"gradient_accumulation_steps"` // micro-steps of an optimizer step; 0 is 1
	DataloaderDropLast        bool `json:"dataloader_drop_last"`        // leaves out an epoch's last batch if it is short
	// TrainSamplingStrategy is "" or "random", "sequential", or "group_by_length" (batches of similar lengths, in TRL's order
	// where nothing but the epochs draws from torch's global generator: there, evaluations and dropout do).
	TrainSamplingStrategy string `json:"train_sampling_strategy"`

	NumTrainEpochs float64 `json:"num_train_epochs"` // 0 is 3
	MaxSteps       int     `json:"max_steps"`        // optimizer steps; positive: overrides NumTrainEpochs

	LearningRate    float64 `json:"learning_rate"`     // 0 is 2e-5
	LRSchedulerType string  `json:"lr_scheduler_type"` // "" is Linear
	// LRSchedulerKwargs are further numbers and texts that a schedule reads, by transformers' names:
	//
	//	cosine, cosine_with_restarts   num_cycles
	//	cosine_with_min_lr             num_cycles; min_lr or min_lr_rate
	//	cosine_warmup_with_min_lr      the same, warmup_lr_rate
	//	polynomial                     lr_end, power
	//	inverse_sqrt                   timescale
	//	warmup_stable_decay            num_decay_steps (required), num_stable_steps, min_lr_ratio, num_cycles; warmup_type and
	//	                               decay_type: "linear", "cosine", "1-sqrt"
	//	reduce_lr_on_plateau           factor, patience, threshold, cooldown, min_lr, eps; mode: "min", "max"; threshold_mode:
	//	                               "rel", "abs"
	//	greedy                         the same, warmup, max_lr, smooth, window_size, reset_start
	LRSchedulerKwargs map[string]any `json:"lr_scheduler_kwargs"`
	WarmupSteps       float64        `json:"warmup_steps"` // steps; below 1: fraction of all steps
	WarmupRatio       float64        `json:"warmup_ratio"` // older name of a fraction in WarmupSteps

	// Optim names the optimizer as transformers' OptimizerNames do:
	//
	//	"", "adamw_torch", "adamw_torch_fused", "paged_adamw_32bit"     AdamW, float32 moments: 8 bytes a trained value
	//	"adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"              AdamW, bitsandbytes' 8-bit moments: 2 bytes
	//	"lion_32bit", "paged_lion_32bit"                                Lion, float32 moment: 4 bytes
	//	"lion_8bit", "paged_lion_8bit"                                  Lion, 8-bit moment: 1 byte
	//	"adafactor"                                                     Adafactor, means of rows and columns: hardly any
	//	"sgd"                                                           SGD; 4 bytes with momentum
	//	"muon"                                                          Muon for the layers' matrices: 4 bytes; AdamW for the rest
	//
	// 8-bit moments (arXiv:2110.02861) are one byte a value and a float32 scale for every 256; tensors of fewer than 4096
	// values keep float32 moments. On a CPU they are rounded as bitsandbytes rounds on a CPU, on CUDA as its kernels do.
	// Paged ones train the same numbers with their moments in pinned memory of the host (bitsandbytes lets the CUDA driver move
	// them there when the GPU is full): only those being updated are on the GPU, and ResidualBudget has the room. Where half of
	// the memory that the host has available cannot hold them twice, and on a CPU, they stay where others' are.
	//
	// "muon" is not among transformers' names; it is torch.optim.Muon with torch.optim.AdamW at the same rate.
	Optim string `json:"optim"`
	// OptimArgs are settings of the optimizer that have no field, "momentum=0.9,nesterov=true": momentum, dampening and
	// nesterov of "sgd"; momentum, nesterov, ns_steps and adjust_lr_fn ("match_rms_adamw" or "original") of "muon".
	OptimArgs string `json:"optim_args"`
	// WeightDecay is of all that is trained but norms and biases.
	WeightDecay float64 `json:"weight_decay"`
	AdamBeta1   float64 `json:"adam_beta1"`   // 0 is 0.9; Lion's β1 too
	AdamBeta2   float64 `json:"adam_beta2"`   // 0 is 0.999; Lion's β2 too, as transformers has it; its authors use 0.99
	AdamEpsilon float64 `json:"adam_epsilon"` // 0 is 1e-8
	// LoRAPlusLRRatio is the learning rate of a LoRA's B over that of its A (LoRA+, arXiv:2402.12354), as of
	// peft.create_loraplus_optimizer; 0 is 1.
	LoRAPlusLRRatio float64 `json:"loraplus_lr_ratio"`
	// LoRAPlusLREmbedding is, with LoRAPlusLRRatio, the learning rate of a LoRA at the embedding where the schedule is at
	// LearningRate; 0 is 1e-6.
	LoRAPlusLREmbedding float64 `json:"loraplus_lr_embedding"`
	// MaxGradNorm clips the global gradient norm. nil is 1, a pointer to 0 does not clip.
	MaxGradNorm *float64 `json:"max_grad_norm"`

	LoggingStrategy  string  `json:"logging_strategy"` // "" is Steps; Epoch, No
	LoggingSteps     float64 `json:"logging_steps"`    // 0 is 10; below 1: fraction of all steps
	LoggingFirstStep bool    `json:"logging_first_step"`
	// ReportTo names what writes the log into OutputDir: "tensorboard" (runs/<RunName>/events.out.tfevents.…), "jsonl"
	// (metrics.jsonl), "csv" (metrics.csv), "all" or "none". nil is none; SFTConfig.Callbacks report anywhere else.
	ReportTo []string `json:"report_to"`
	// RunName names the run in reports and in the model card. "" is the base name of OutputDir.
	RunName string `json:"run_name"`
	// LossWatchdogThreshold stops a run whose loss has been above it for LossWatchdogPatience steps in a row (0 is 3), with
	// an error that names the rows of the worst batch. 0 watches for losses that are not finite only.
	LossWatchdogThreshold float64 `json:"loss_watchdog_threshold"`
	LossWatchdogPatience  int     `json:"loss_watchdog_patience"`

	EvalDataset  *Dataset `json:"-"`             // rows for evaluation, in the same format as the training rows
	EvalStrategy string   `json:"eval_strategy"` // "" is No; Steps, Epoch
	EvalSteps    float64  `json:"eval_steps"`    // 0 is LoggingSteps; below 1: fraction of all steps
	EvalDelay    float64  `json:"eval_delay"`    // steps or epochs before the first evaluation
	EvalOnStart  bool     `json:"eval_on_start"`
	// ComputeMetrics adds metrics of one's own to every evaluation; their names get the prefix eval_. It may use the model,
	// for example to generate text; ctx is that of Train.
	ComputeMetrics func(ctx context.Context) (Metrics, error) `json:"-"`

	SaveStrategy   string  `json:"save_strategy"`    // "" is Steps; Epoch, Best, No (not even when cancelled)
	SaveSteps      float64 `json:"save_steps"`       // 0 is 500; below 1: fraction of all steps
	SaveTotalLimit int     `json:"save_total_limit"` // checkpoints kept, the best one besides; 0: all
	SaveOnlyModel  bool    `json:"save_only_model"`  // without what resuming needs
	// EnableJITCheckpoint ends a run at SIGTERM as cancelling the context of Train does: with a checkpoint.
	EnableJITCheckpoint bool `json:"enable_jit_checkpoint"`
	// LoadBestModelAtEnd puts the best checkpoint's weights back when training ends.
	LoadBestModelAtEnd bool `json:"load_best_model_at_end"`
	// MetricForBestModel names an evaluation metric, with or without "eval_"; "" is "loss" where one is needed.
	MetricForBestModel string `json:"metric_for_best_model"`
	GreaterIsBetter    *bool  `json:"greater_is_better"` // nil: unless the metric's name ends in "loss" or "perplexity"

	// ResumeFromCheckpoint continues a run: a checkpoint folder, LastCheckpoint (it must exist) or AutoCheckpoint.
	ResumeFromCheckpoint string `json:"resume_from_checkpoint"`
	// IgnoreDataSkip resumes at the start of the checkpoint's epoch, also with other data.
	IgnoreDataSkip bool `json:"ignore_data_skip"`

	Seed     int64 `json:"seed"`      // of dropout and ShuffleDataset; 0 is 42
	DataSeed int64 `json:"data_seed"` // of the order of the rows; 0 is Seed

	// ResidualBudget is how many bytes of activations the device may keep for the backward pass instead of computing
	// them again: "" or "auto" is what is free, or an amount such as "0", "512MB", "12GiB". Values do not depend on it. Of
	// layers that get nothing of it, a GPU keeps the inputs in pinned memory of the host, if half of what that has
	// available is enough.
	ResidualBudget string `json:"residual_budget"`

	// Logger receives what happens; nil is slog.Default().
	Logger *slog.Logger `json:"-"`
	// Progress receives the progress bar; nil is standard error if that is a terminal.
	Progress    io.Writer  `json:"-"`
	DisableTQDM bool       `json:"disable_tqdm"` // no progress bar
	Callbacks   []Callback `json:"-"`
}

// NoMaxLength as SFTConfig.MaxLength keeps examples at their full length.
const NoMaxLength = -1

// Values of SFTConfig.TruncationMode.
const (
	KeepStart = "keep_start"
	KeepEnd   = "keep_end" // deprecated in TRL
)

// Values of SFTConfig.PackingStrategy.
const (
	BFD      = "bfd"       // best fit decreasing; what exceeds MaxLength is cut off
	BFDSplit = "bfd_split" // best fit decreasing; what exceeds MaxLength becomes an example of its own
	Wrapped  = "wrapped"   // examples joined and cut every MaxLength tokens, seeing each other
)

// Values of LoggingStrategy, EvalStrategy and SaveStrategy.
const (
	No    = "no"
	Steps = "steps"
	Epoch = "epoch"
	Best  = "best" // SaveStrategy only: whenever an evaluation was the best so far
)

// Values of TrainSamplingStrategy.
const (
	Random        = "random"
	Sequential    = "sequential"
	GroupByLength = "group_by_length"
)

// Values of ResumeFromCheckpoint that are not a folder.
const (
	LastCheckpoint = "last" // the highest checkpoint of OutputDir
	AutoCheckpoint = "auto" // LastCheckpoint if there is one, else a fresh start
)

// withDefaults replaces zero fields by what they stand for.
func (c SFTConfig) withDefaults() SFTConfig {
	orDefault(&c.OutputDir, "trainer_output")
	orDefault(&c.MaxLength, 1024)
	orDefault(&c.ExcessLengthStrategy, "truncate")
	orDefault(&c.TruncationMode, KeepStart)
	orDefault(&c.PackingStrategy, BFD)
	orDefault(&c.EvalPacking, &c.Packing)
	orDefault(&c.DatasetTextField, "text")
	c.AssistantOnlyLoss = c.AssistantOnlyLoss || c.LastTurnOnlyLoss
	orDefault(&c.LossType, "nll")
	orDefault(&c.PerDeviceTrainBatchSize, 8)
	orDefault(&c.PerDeviceEvalBatchSize, 8)
	orDefault(&c.GradientAccumulationSteps, 1)
	orDefault(&c.TrainSamplingStrategy, Random)
	orDefault(&c.NumTrainEpochs, 3)
	orDefault(&c.MaxSteps, -1)
	orDefault(&c.LearningRate, 2e-5)
	orDefault(&c.LRSchedulerType, Linear)
	orDefault(&c.Optim, "adamw_torch_fused")
	orDefault(&c.AdamBeta1, 0.9)
	orDefault(&c.AdamBeta2, 0.999)
	orDefault(&c.AdamEpsilon, 1e-8)
	if c.LoRAPlusLRRatio != 0 {
		orDefault(&c.LoRAPlusLREmbedding, 1e-6)
	}
	orDefault(&c.MaxGradNorm, new(1.0))
	orDefault(&c.LoggingStrategy, Steps)
	orDefault(&c.LoggingSteps, 10)
	orDefault(&c.EvalStrategy, No)
	orDefault(&c.EvalSteps, c.LoggingSteps)
	orDefault(&c.SaveStrategy, Steps)
	orDefault(&c.SaveSteps, 500)
	if c.LoadBestModelAtEnd || c.SaveStrategy == Best || c.follows() {
		orDefault(&c.MetricForBestModel, "loss")
	}
	orDefault(&c.GreaterIsBetter, new(!lowerIsBetter(c.MetricForBestModel)))
	orDefault(&c.RunName, filepath.Base(c.OutputDir))
	orDefault(&c.LossWatchdogPatience, 3)
	orDefault(&c.Seed, 42)
	orDefault(&c.DataSeed, c.Seed)
	orDefault(&c.ResidualBudget, "auto")
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
