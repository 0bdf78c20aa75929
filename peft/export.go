package peft

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/loris-ml/loris/models"
)

// ExportTarget is a program that adapters are taken to.
type ExportTarget string

// The programs that [PeftModel.CheckExport] knows, and where its rules come from.
const (
	ExportVLLM         ExportTarget = "vllm"         // vllm/lora/peft_helper.py and lora_model.py
	ExportLlamaCpp     ExportTarget = "llama.cpp"    // convert_lora_to_gguf.py
	ExportTransformers ExportTarget = "transformers" // PreTrainedModel.load_adapter, without a PeftModel
)

// ExportProblem is why an adapter does not work in a program, or not as it does here.
type ExportProblem struct {
	Field   string // of the config, as files have it
	Value   string
	Problem string
	Remedy  string
	Silent  bool // the program takes the adapter, and computes something else
}

func (p ExportProblem) String() string {
	return fmt.Sprintf("%s %s: %s; %s", p.Field, p.Value, p.Problem, p.Remedy)
}

// ExportReport says whether a program will take an adapter.
type ExportReport struct {
	Target   ExportTarget
	Problems []ExportProblem // none: it will, and computes what it does here
	Notes    []string        // what the program must be told
}

// OK tells whether there are no problems.
func (r ExportReport) OK() bool { return len(r.Problems) == 0 }

// String is a line for each problem and note.
func (r ExportReport) String() string {
	var b strings.Builder
	verdict := "takes the adapter"
	if !r.OK() {
		verdict = "does not take the adapter as it is"
	}
	fmt.Fprintf(&b, "%s %s\n", r.Target, verdict)
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "  problem: %s\n", p)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "  note: %s\n", n)
	}
	return b.String()
}

// CheckExport says whether a program will take the active adapters as SavePretrained writes them, and what to change.
func (p *PeftModel) CheckExport(target ExportTarget) (ExportReport, error) {
	r := ExportReport{Target: target}
	if len(p.active) > 1 {
		return r, fmt.Errorf("adapters %q are active together: choose the one to check with SetAdapter, or make one of them with AddWeightedAdapter", p.active)
	}
	if target == ExportTransformers {
		r.note(p.Config().base() == "", "base_model_name_or_path is empty: from_pretrained on the adapter's folder will not find the base; use load_adapter on the base")
		_, virtual := p.first().tuner.(*promptSet)
		r.problem(virtual, ExportProblem{Field: "peft_type", Value: fmt.Sprintf("%q", p.Config().Type()), Problem: "load_adapter takes no virtual tokens",
			Remedy: "load it with PEFT's PeftModel.from_pretrained"})
		return r, nil
	}
	s, err := p.first().lora(fmt.Sprintf("%s knows LoRA alone; merge (SaveMerged)", target))
	if err != nil {
		return r, err
	}
	switch target {
	case ExportVLLM:
		r.vllm(s)
	case ExportLlamaCpp:
		r.llamaCpp(p, s)
	default:
		return r, fmt.Errorf("export target %q is unknown; use %q, %q or %q", string(target), string(ExportVLLM), string(ExportLlamaCpp), string(ExportTransformers))
	}
	return r, nil
}

func (r *ExportReport) note(when bool, format string, args ...any) {
	if when {
		r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
	}
}

func (r *ExportReport) problem(when bool, p ExportProblem) {
	if when {
		r.Problems = append(r.Problems, p)
	}
}

// plainRemedy is what makes one scaling out of several.
const plainRemedy = "save it with SavePlain, which makes the scaling part of B"

// vllmRanks are those that vLLM's --max-lora-rank may be.
var vllmRanks = []int{1, 8, 16, 32, 64, 128, 256, 320, 512}

func (r *ExportReport) vllm(s *loraSet) {
	r.changedBase(s)
	r.dora(s, "vLLM does not support DoRA")
	r.biases(s, "vLLM refuses tensors other than lora_A and lora_B")
	// vLLM scales all modules by lora_alpha and r (or √r with use_rslora) of the config.
	r.problem(s.scalingsDiffer(), ExportProblem{Field: "rank_pattern, alpha_pattern", Value: "given", Silent: true,
		Problem: "vLLM scales all modules by lora_alpha and r", Remedy: plainRemedy})
	r.ends(s, "vLLM takes A and B alone")
	most := s.maxRank()
	if i := slices.IndexFunc(vllmRanks, func(n int) bool { return n >= most }); i >= 0 {
		r.note(most > 16, "start vLLM with --max-lora-rank %d; its default is 16", vllmRanks[i])
	} else {
		r.problem(true, ExportProblem{Field: "r", Value: fmt.Sprint(most), Problem: "vLLM takes ranks up to 512",
			Remedy: `make an adapter of less rank with AddWeightedAdapter and "svd", or merge (SaveMerged)`})
	}
}

func (r *ExportReport) llamaCpp(p *PeftModel, s *loraSet) {
	r.changedBase(s)
	r.dora(s, "convert_lora_to_gguf.py stops at lora_magnitude_vector")
	r.biases(s, "convert_lora_to_gguf.py stops at biases")
	r.ends(s, "convert_lora_to_gguf.py stops at whole weights of embed_tokens and lm_head")
	r.problem(p.base.Tied() && slices.ContainsFunc(s.targets, func(t Target) bool { return t.Path == models.HeadPath }), ExportProblem{
		Field: "target_modules", Value: models.HeadPath, Problem: "the base's head is tied to its embedding, and llama.cpp has no lm_head then", Remedy: "merge (SaveMerged)"})
	// llama.cpp scales every module by lora_alpha over the rank of its own tensors.
	r.problem(s.cfg.UseRSLora, ExportProblem{Field: "use_rslora", Value: "true", Silent: true,
		Problem: "llama.cpp scales by lora_alpha/r", Remedy: plainRemedy + ", or write it with SaveGGUF"})
	r.problem(len(s.cfg.AlphaPattern) > 0, ExportProblem{Field: "alpha_pattern", Value: fmt.Sprint(patternMap(s.cfg.AlphaPattern)), Silent: true,
		Problem: "llama.cpp has one lora_alpha for all modules", Remedy: plainRemedy + ", or write it with SaveGGUF"})
	r.note(s.cfg.BaseModelNameOrPath == "", "base_model_name_or_path is empty: give convert_lora_to_gguf.py the folder of the base with --base")
}

// changedBase reports adapters that were trained on a base with other weights.
func (r *ExportReport) changedBase(s *loraSet) {
	how := s.cfg.InitLoraWeights
	p := ExportProblem{Field: "init_lora_weights", Value: fmt.Sprintf("%q", string(how)), Silent: true,
		Problem: "the adapter belongs to a base whose weights it changed when it was made, which " + string(r.Target) + " does not do",
		Remedy:  "save it with SaveConverted, or save the changed base with it (Base().SavePretrained)"}
	if how == InitLoftQ {
		p.Remedy = "save the changed base with it (Base().SavePretrained)"
	}
	r.problem(how.changesBase(), p)
}

// biases reports trained biases.
func (r *ExportReport) biases(s *loraSet, problem string) {
	r.problem(s.cfg.LoraBias, ExportProblem{Field: "lora_bias", Value: "true", Problem: problem, Remedy: "merge (SaveMerged)"})
	r.problem(len(s.biases) > 0, ExportProblem{Field: "bias", Value: fmt.Sprintf("%q", s.cfg.Bias), Problem: problem, Remedy: "merge (SaveMerged)"})
}

func (r *ExportReport) dora(s *loraSet, problem string) {
	r.problem(s.cfg.UseDora, ExportProblem{Field: "use_dora", Value: "true", Problem: problem, Remedy: "merge (SaveMerged)"})
}

// ends reports what is trained of the model's ends in full.
func (r *ExportReport) ends(s *loraSet, problem string) {
	r.problem(len(s.saved) > 0, ExportProblem{Field: "modules_to_save", Value: moduleNames(s.cfg.ModulesToSave).String(), Problem: problem, Remedy: "merge (SaveMerged)"})
	r.problem(len(s.cfg.TrainableTokenIndices) > 0, ExportProblem{Field: "trainable_token_indices", Value: fmt.Sprint(s.cfg.TrainableTokenIndices),
		Problem: problem, Remedy: "merge (SaveMerged)"})
}

func (s *loraSet) maxRank() (most int) {
	for _, t := range s.targets {
		most = max(most, t.R)
	}
	return most
}

// scalingsDiffer tells whether some module scales otherwise than the config's r and lora_alpha say.
func (s *loraSet) scalingsDiffer() bool {
	usual := (&scaler{rslora: s.cfg.UseRSLora}).scaling(s.cfg.R, s.cfg.LoraAlpha)
	return slices.ContainsFunc(s.targets, func(t Target) bool { return t.Scaling != usual })
}

func patternMap[V int | float64](p Pattern[V]) map[string]V {
	m := map[string]V{}
	for _, e := range p {
		m[e.Key] = e.Value
	}
	return m
}

// SavePlain writes the active adapters so that programs that know r and lora_alpha alone compute with them what they do here:
// every module gets the largest rank, padded by zeros, and B holds the scaling. Several active adapters become one. The
// result is no start for further training.
func (p *PeftModel) SavePlain(dir string) error {
	s, err := p.first().lora("it has no A and B")
	if err != nil {
		return fmt.Errorf("save plain adapters: %w", err)
	}
	if how := s.cfg.InitLoraWeights; how.changesBase() {
		return fmt.Errorf("save plain adapters: init_lora_weights %q: the base has other weights; use SaveConverted", string(how))
	}
	loras, err := p.join(p.active)
	if err != nil {
		return fmt.Errorf("save plain adapters: %w", err)
	}
	most, sizes := 0, map[string]Target{}
	for _, l := range loras {
		most = max(most, l.R)
	}
	for _, name := range p.active {
		for _, t := range p.sets[name].targeted() {
			sizes[t.Path] = t
		}
	}
	cfg := s.cfg
	cfg.R, cfg.LoraAlpha, cfg.UseRSLora, cfg.RankPattern, cfg.AlphaPattern = most, float64(most), false, nil, nil
	cfg.InitLoraWeights, cfg.EvaConfig = InitTrue, nil
	if len(p.active) > 1 {
		cfg.TargetModules = shortened(Modules(slices.Sorted(maps.Keys(sizes))...), p.modules())
		cfg.ExcludeModules, cfg.LayersToTransform, cfg.LayersPattern = nil, nil, nil
	}
	var weights []AdapterWeight
	for _, l := range loras {
		t := sizes[l.Path]
		if l.R < most {
			l = beside(l, models.LoRA{R: most - l.R, A: make([]float32, (most-l.R)*t.In), B: make([]float32, t.Out*(most-l.R))})
		}
		weights = append(weights, AdapterWeight{Path: l.Path, A: l.A, B: l.B, R: most, In: t.In, Out: t.Out})
	}
	return SaveAdapter(dir, cfg, weights)
}
