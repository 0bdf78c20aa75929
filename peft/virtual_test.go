package peft

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// virtualNames are the cases of testdata/virtual, which PEFT made (scripts/reference/make_virtual_fixtures.py), that begin so.
func virtualNames(t *testing.T, prefixes ...string) (names []string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join("testdata", "virtual", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		name := filepath.Base(f)
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		t.Fatal("no fixtures")
	}
	return names
}

// deviceCases are the ones that are run on XLA's CPU backend too, where their programs are compiled; virtual embeddings are in package layerwise.
var deviceCases = []string{"save_qwen2", "projection_llama"}

// onVirtual runs a test over the cases that begin so.
func onVirtual(t *testing.T, test func(t *testing.T, c *tunerCase, m *models.CausalLM, p *PeftModel), prefixes ...string) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		for _, name := range virtualNames(t, prefixes...) {
			if backend == "xla:cpu" && !slices.Contains(deviceCases, name) {
				continue
			}
			t.Run(name, func(t *testing.T) {
				c := readCase(t, "virtual", name)
				m := c.load(t, backend, models.Options{})
				test(t, c, m, c.open(t, m))
			})
		}
	})
}

const virtualLimit = 2e-5

// Copies of modules that PEFT trained compute, learn, are merged and are saved here as there, and the base does not see them.
func TestCopiesOfModulesAreThoseOfPEFT(t *testing.T) {
	onVirtual(t, func(t *testing.T, c *tunerCase, m *models.CausalLM, p *PeftModel) {
		c.checkLogits(t, p, "logits", virtualLimit)
		c.checkLogits(t, m, "base.logits", virtualLimit)
		loss, grads := gradients(t, p, c.batch())
		if d := loss - c.Loss; d > 1e-5 || d < -1e-5 {
			t.Errorf("loss %v, PEFT's is %v", loss, c.Loss)
		}
		c.compareGradients(t, copyKeys(p), grads, 10*virtualLimit)
		c.checkSaved(t, p)
		if c.NF4 || m.Options().Backend != "" {
			return
		}
		dir := t.TempDir()
		if err := p.SaveMerged(dir, MergeOptions{}); err != nil {
			t.Fatal(err)
		}
		c.checkLogits(t, loadTiny(t, dir, models.Options{DType: models.Float32}), "merged.logits", virtualLimit)
	}, "save_", "ln_")
}

// copyKeys are the keys in files of what is trained, in the session's order.
func copyKeys(p *PeftModel) (keys []string) {
	var targets []Target
	var copies []moduleCopy
	infix := func(moduleCopy) string { return "" }
	switch s := p.first().tuner.(type) {
	case *loraSet:
		targets, copies = s.targets, s.saved
	case *methodSet:
		copies = s.saved
	case *lnSet:
		copies, infix = append(slices.Clone(s.tuned), s.saved...), s.infix
	}
	add := func(path string) {
		for _, m := range copies {
			if m.path != path {
				continue
			}
			keys = append(keys, keyPrefix+path+infix(m)+suffixFull)
			if m.bias {
				keys = append(keys, keyPrefix+path+infix(m)+suffixUntouched)
			}
		}
	}
	norms, linears := p.base.Norms(), p.base.Linears()
	for _, path := range []string{models.EmbeddingPath, models.HeadPath, models.NormPath} {
		add(path)
	}
	for i := range p.base.AttentionShape().Layers {
		layer := fmt.Sprintf("model.layers.%d.", i)
		for _, n := range norms {
			if strings.HasPrefix(n.Path, layer) {
				add(n.Path)
			}
		}
		for _, l := range linears {
			if strings.HasPrefix(l.Path, layer) {
				add(l.Path)
			}
		}
		if s, ok := p.first().tuner.(*methodSet); ok {
			for i, t := range s.targets {
				for _, n := range s.forms[i].tensors {
					if strings.HasPrefix(t.Path, layer) && n.shared == nil {
						keys = append(keys, keyPrefix+t.Path+"."+n.name)
					}
				}
			}
		}
		for _, t := range targets {
			if strings.HasPrefix(t.Path, layer) {
				keys = append(keys, keyPrefix+t.Path+suffixA, keyPrefix+t.Path+suffixB)
			}
		}
	}
	return keys
}

// promptBatch is the case's batch; the first tokens have labels of their own, which count where something predicts them.
func (c *tunerCase) promptBatch(p *PeftModel) *training.Batch {
	b := c.batch()
	for _, row := range c.IDs {
		b.FirstLabels = append(b.FirstLabels, int32(row[0]))
	}
	if p.Config().Type() != peftTypePrefix {
		b.NumLabels += len(c.IDs)
	}
	return b
}

// encoderOf is the encoder that PEFT computed a case's prefix with.
func (c *tunerCase) encoderOf(t *testing.T) *models.VirtualEncoder {
	t.Helper()
	e := &models.VirtualEncoder{Name: "transform", Embedding: c.tensor(t, "encoder.embedding.weight")}
	if strings.HasPrefix(c.Name, "ptuning_") {
		e.Name, e.ReLU = "mlp_head", true
	}
	for i := 0; ; i += 2 {
		key := fmt.Sprintf("encoder.%s.%d.", e.Name, i)
		info, ok := c.file.Info(key + "weight")
		if !ok {
			return e
		}
		if i == 0 {
			e.Sizes = []int{info.Shape[1]}
		}
		e.Sizes = append(e.Sizes, info.Shape[0])
		e.Weights, e.Biases = append(e.Weights, c.tensor(t, key+"weight")), append(e.Biases, c.tensor(t, key+"bias"))
	}
}

// Virtual tokens that PEFT trained compute, also in rows with padding and while text is generated, learn, and are saved here as
// there.
func TestVirtualTokensAreThoseOfPEFT(t *testing.T) {
	onVirtual(t, func(t *testing.T, c *tunerCase, m *models.CausalLM, p *PeftModel) {
		c.checkLogits(t, p, "logits", virtualLimit)
		c.checkMasked(t, p)
		c.checkGenerated(t, p)
		c.checkSaved(t, p)
		_, encoded := c.file.Info("encoder.embedding.weight")
		if encoded {
			p = c.withEncoder(t, m)
		}
		loss, grads := gradients(t, p, c.promptBatch(p))
		if d := loss - c.Loss; d > 1e-5 || d < -1e-5 {
			t.Errorf("loss %v, PEFT's is %v", loss, c.Loss)
		}
		cfg, prefix := p.Config().(PrefixTuningConfig)
		switch {
		case encoded:
			e := c.encoderOf(t)
			keys := []string{"embedding.weight"}
			for i := range e.Weights {
				keys = append(keys, fmt.Sprintf("%s.%d.weight", e.Name, 2*i), fmt.Sprintf("%s.%d.bias", e.Name, 2*i))
			}
			c.compareGradients(t, keys, grads, 10*virtualLimit)
			return
		case prefix:
			grads = [][]float32{tokenByToken(grads, cfg.NumVirtualTokens)}
		}
		c.compareGradients(t, []string{keyPrompt}, grads, 10*virtualLimit)
	}, "prompt_", "prefix_", "projection_", "ptuning_")
}

// tokenByToken puts the layers' rows of each token side by side.
func tokenByToken(layers [][]float32, tokens int) (all []float32) {
	for i := range tokens {
		for _, l := range layers {
			n := len(l) / tokens
			all = append(all, l[i*n:(i+1)*n]...)
		}
	}
	return all
}

// withEncoder is a model whose virtual tokens PEFT's encoder computes.
func (c *tunerCase) withEncoder(t *testing.T, m *models.CausalLM) *PeftModel {
	t.Helper()
	cfg, _, err := ReadConfig(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	p, err := GetPeftModel(m, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	e := c.encoderOf(t)
	v := &models.Virtual{Tokens: len(e.Embedding) / e.Sizes[0], Encoder: e}
	if v.Prefix = e.Output(); cfg.Type() != peftTypePrefix {
		v.Embeddings, v.Prefix = v.Prefix, nil
	}
	fresh, err := m.NewAdapters([]models.LoRA{{Path: models.VirtualPath, Virtual: v}})
	if err != nil {
		t.Fatal(err)
	}
	old := p.first().weights
	p.first().weights = fresh
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	c.checkLogits(t, p, "logits", virtualLimit)
	return p
}

// checkMasked compares the logits of rows that are padded on the left and on the right.
func (c *tunerCase) checkMasked(t *testing.T, p *PeftModel) {
	t.Helper()
	logits, err := p.Logits(context.Background(), c.IDs, c.Mask)
	if err != nil {
		t.Fatal(err)
	}
	want := c.tensor(t, "masked.logits")
	var got, theirs []float32
	for i, row := range logits {
		for j, l := range row {
			if at := (i*len(row) + j) * len(l); c.Mask[i][j] == 1 {
				got, theirs = append(got, l...), append(theirs, want[at:at+len(l)]...)
			}
		}
	}
	reference.CheckClose(t, c.Name+" masked", got, theirs, virtualLimit)
}

// checkGenerated compares greedy tokens of prompts of several lengths at once.
func (c *tunerCase) checkGenerated(t *testing.T, p *PeftModel) {
	t.Helper()
	ctx, o := context.Background(), models.GenerationConfig{MaxNewTokens: len(c.Generated[0]), EOSTokenIDs: []int{}}
	short := c.IDs[0][:3]
	alone, err := p.GenerateBatchIDs(ctx, [][]int{short}, o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.GenerateBatchIDs(ctx, append(slices.Clone(c.IDs), short), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := append(slices.Clone(c.Generated), alone[0]); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("generated %v, want %v", got, want)
	}
}

// What new copies and virtual tokens start from, where that is not random, is what PEFT's do; they are as many parameters.
func TestNewCopiesAndVirtualTokensStartAsInPEFT(t *testing.T) {
	for _, name := range append(virtualNames(t, "save_", "ln_", "prefix_", "projection_", "ptuning_"), "prompt_text") {
		c := readCase(t, "virtual", name)
		cfg, _, err := ReadConfig(c.dir)
		if err != nil {
			t.Fatal(err)
		}
		if prompt, ok := cfg.(PromptTuningConfig); ok {
			prompt.TokenizerNameOrPath = filepath.Join("..", "tokenizer", "testdata", "wordlevel")
			cfg = prompt
		}
		p, err := GetPeftModel(c.load(t, "", models.Options{}), cfg)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, want := p.TrainableParameters(), FormatTrainableParameters(c.Trainable[0], c.Trainable[1]); got != want && !c.NF4 { // PEFT counts as many 4-bit weights as bytes hold
			t.Errorf("%s: %s, PEFT says %s", name, got, want)
		}
		values, err := p.first().weights.Values()
		if err != nil {
			t.Fatal(err)
		}
		if v := values[models.VirtualPath].Virtual; v != nil && name == "prompt_text" {
			reference.CheckClose(t, name, v.Embeddings, c.tensor(t, "initial."+keyPrompt), 1e-7)
		}
		for _, key := range c.file.Names() {
			parts := copyKey.FindStringSubmatch(strings.TrimPrefix(key, "initial."))
			if parts == nil || !strings.HasPrefix(key, "initial.") || strings.Contains(key, "lora_") {
				continue
			}
			v := values[parts[1]]
			if name == "save_tied" && parts[1] == models.HeadPath {
				v = values[models.EmbeddingPath]
			}
			got := v.Full
			if parts[3] == "bias" {
				got = v.FullBias
			}
			reference.CheckClose(t, name+" "+key, got, c.tensor(t, key), 1e-7)
		}
		p.Close()
	}
}

func TestPromptThatStartsFromTheVocabularyHasItsScaledRows(t *testing.T) {
	c := readCase(t, "virtual", "prompt_gemma2") // whose embedding is scaled
	m := c.load(t, "", models.Options{})
	p, err := GetPeftModel(m, PromptTuningConfig{Prompts: Prompts{NumVirtualTokens: 2}, PromptTuningInit: PromptSampleVocab})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	values, err := p.first().weights.Values()
	if err != nil {
		t.Fatal(err)
	}
	all, err := m.Tensor(models.EmbeddingPath + ".weight")
	if err != nil {
		t.Fatal(err)
	}
	rows, hidden := values[models.VirtualPath].Virtual.Embeddings, m.Embedding().Out
	theirs := c.tensor(t, "initial."+keyPrompt)
	for _, row := range append(slices.Collect(slices.Chunk(rows, hidden)), slices.Collect(slices.Chunk(theirs, hidden))...) {
		if !slices.ContainsFunc(slices.Collect(slices.Chunk(all, hidden)), func(r []float32) bool { return sameDirection(r, row) }) {
			t.Errorf("a row that is none of the vocabulary's: %v", row)
		}
	}
}

// sameDirection tells whether b is a times √(its length), rounded.
func sameDirection(a, b []float32) bool {
	scaled := make([]float32, len(a))
	for i, v := range a {
		scaled[i] = v * float32(5.2915026) // √28
	}
	return reference.RelativeError(scaled, b) < 1e-5
}

func TestCopyOfAQuantizedLinearIsRefusedAsInPEFT(t *testing.T) {
	c := readCase(t, "virtual", "save_nf4")
	if c.Quantized == "" {
		t.Fatal("PEFT did not refuse")
	}
	m := c.load(t, "", models.Options{})
	for _, cfg := range []Config{
		LoraConfig{TargetModules: Modules("q_proj"), ModulesToSave: []string{"v_proj"}},
		LNTuningConfig{TargetModules: Modules("v_proj")},
	} {
		if _, err := GetPeftModel(m, cfg); err == nil || !strings.Contains(err.Error(), `module "model.layers.0.self_attn.v_proj": a copy of it would be of quantized numbers`) {
			t.Errorf("error %v", err)
		}
	}
}

func TestAdaptersWithCopiesAreSavedAsTheyWereLoaded(t *testing.T) {
	for _, name := range virtualNames(t, "save_") {
		c := readCase(t, "virtual", name)
		if read, _, err := ReadConfig(c.dir); err != nil || read.Type() != peftTypeLora {
			continue
		}
		cfg, weights, _, err := LoadAdapter(c.dir)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := SaveAdapter(dir, cfg, weights); err != nil {
			t.Fatal(err)
		}
		checkFolder(t, dir, c.dir, 0)
	}
}

func TestTiedHeadCannotHaveTheEmbeddingsLoRA(t *testing.T) {
	m := readCase(t, "virtual", "save_tied").load(t, "", models.Options{})
	_, err := GetPeftModel(m, LoraConfig{TargetModules: Modules("embed_tokens"), EnsureWeightTying: true})
	if err == nil || !strings.Contains(err.Error(), "ensure_weight_tying true with a LoRA on") {
		t.Errorf("error %v", err)
	}
}

func TestWhatVirtualTokensCannotDoIsAnErrorThatSaysWhatElse(t *testing.T) {
	c := readCase(t, "virtual", "projection_llama")
	m := c.load(t, "", models.Options{})
	p := c.open(t, m)
	wants := func(what string, err error, text string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: error %v, want %q", what, err, text)
		}
	}
	_, err := p.NewSession(training.SessionOptions{})
	wants("train a loaded projection", err, "attach a new adapter")
	wants("merge", p.MergeAdapter(false), "peft_type PREFIX_TUNING")
	wants("merge and save", p.SaveMerged(t.TempDir(), MergeOptions{}), "SavePretrained")
	_, err = p.CheckExport(ExportVLLM)
	wants("export", err, "vllm knows LoRA alone")
	if r, err := p.CheckExport(ExportTransformers); err != nil || r.OK() || !strings.Contains(r.String(), "virtual tokens") {
		t.Errorf("transformers: %v, %v", r, err)
	}

	fresh, err := GetPeftModel(m, PromptTuningConfig{Prompts: Prompts{NumVirtualTokens: 2}})
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	s, err := fresh.NewSession(training.SessionOptions{AdamBeta1: 0.9, AdamBeta2: 0.999, AdamEpsilon: 1e-8})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := c.batch()
	for i := range b.Segments {
		b.Segments[i] = int32(1 + i%b.Length/4)
	}
	_, err = s.MicroStep(context.Background(), b)
	wants("packed rows", err, "set Packing to false")
	_, err = fresh.NewSession(training.SessionOptions{NEFTuneNoiseAlpha: 5})
	wants("noise", err, "NEFTuneNoiseAlpha")
}

func TestConfigsOfVirtualTokensNameTheFieldThatIsWrong(t *testing.T) {
	m := readCase(t, "virtual", "prompt_llama").load(t, "", models.Options{})
	two := Prompts{NumVirtualTokens: 2}
	for want, cfg := range map[string]Config{
		"num_virtual_tokens is 0":                                 PromptTuningConfig{},
		`prompt_tuning_init "some" is unknown`:                    PromptTuningConfig{Prompts: two, PromptTuningInit: "some"},
		"needs prompt_tuning_init_text":                           PromptTuningConfig{Prompts: two, PromptTuningInit: PromptText},
		"tokenizer_name_or_path":                                  PromptTuningConfig{Prompts: two, PromptTuningInit: PromptText, PromptTuningInitText: "x", TokenizerNameOrPath: "nowhere/at/all"},
		`init_weights "one" is unknown`:                           PrefixTuningConfig{Prompts: two, InitWeights: "one"},
		"token_dim is 5, the model has 12":                        PrefixTuningConfig{Prompts: Prompts{NumVirtualTokens: 2, TokenDim: 5}},
		`task_type "SEQ_CLS"`:                                     PrefixTuningConfig{Prompts: Prompts{NumVirtualTokens: 2, TaskType: "SEQ_CLS"}},
		`encoder_reparameterization_type "LSTM" is not supported`: PromptEncoderConfig{Prompts: two, EncoderReparameterizationType: "LSTM"},
		"num_transformer_submodules is 2":                         PromptTuningConfig{Prompts: Prompts{NumVirtualTokens: 2, NumTransformerSubmodules: 2}},
		"modules_to_save [\"foo\"]: the model has no":             LNTuningConfig{Origin: Origin{ModulesToSave: []string{"foo"}}},
		"modules_to_save \"ayers\" is the list":                   LNTuningConfig{TargetModules: Modules("model.norm"), Origin: Origin{ModulesToSave: []string{"ayers"}}},
		"Target modules [\"foo\"] not found":                      LNTuningConfig{TargetModules: Modules("foo")},
	} {
		if _, err := GetPeftModel(m, cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %q", cfg, err, want)
		}
	}
}

func TestFilesOfVirtualTokensThatDoNotFitAreRefused(t *testing.T) {
	c := readCase(t, "virtual", "prefix_llama")
	m := c.load(t, "", models.Options{})
	for old, want := range map[string]struct{ to, text string }{
		`"num_virtual_tokens": 3`:      {`"num_virtual_tokens": 4`, `tensor "prompt_embeddings" is [3 48]; config and model want [4, 48]`},
		`"modules_to_save": null`:      {`"modules_to_save": ["lm_head"]`, "not supported beside virtual tokens"},
		`"peft_type": "PREFIX_TUNING"`: {`"peft_type": "CPT"`, `peft_type "CPT" is not supported`},
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(c.dir)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, ConfigName)
		raw, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, []byte(strings.ReplaceAll(string(raw), old, want.to)), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := FromPretrained(m, dir); err == nil || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%s: error %v, want %q", want.to, err, want.text)
		}
	}
}
