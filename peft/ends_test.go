package peft

import (
	"context"
	"encoding/json/v2"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// New parts at the ends change nothing yet, whether the head is tied or not, and disabling them gives the base.
func TestNewPartsAtTheEndsChangeNothing(t *testing.T) {
	for _, name := range []string{"ends_lora", "ends_lora_gemma2", "ends_full", "head_full_gemma2", "tokens", "tokens_gemma2"} {
		c := readTuner(t, name)
		m := c.load(t, "", models.Options{})
		p, err := GetPeftModel(m, c.config(t))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		c.checkLogits(t, p, "base.logits", 1e-6)
		if err := p.LoadAdapter("trained", c.dir); err != nil {
			t.Fatal(err)
		}
		if err := p.SetAdapter("trained"); err != nil {
			t.Fatal(err)
		}
		c.checkLogits(t, p, "logits", 2e-5)
		if err := p.DisableAdapters(func() error { c.checkLogits(t, p, "base.logits", 1e-6); return nil }); err != nil {
			t.Fatal(err)
		}
	}
}

// What is generated and scored sees the ends as the logits do.
func TestGenerationSeesTheEnds(t *testing.T) {
	ctx := context.Background()
	for _, name := range []string{"ends_lora_gemma2", "ends_full", "tokens_gemma2"} {
		c := readTuner(t, name)
		p := c.open(t, c.load(t, "", models.Options{}))
		logits, err := p.Logits(ctx, c.IDs, nil)
		if err != nil {
			t.Fatal(err)
		}
		scores, err := p.LogProbs(ctx, c.IDs)
		if err != nil {
			t.Fatal(err)
		}
		next, err := p.GenerateBatchIDs(ctx, c.IDs, models.GenerationConfig{MaxNewTokens: 1})
		if err != nil {
			t.Fatal(err)
		}
		for i, row := range logits {
			last := row[len(row)-1]
			if want := slices.Index(last, slices.Max(last)); next[i][0] != want {
				t.Errorf("%s: row %d goes on with %d, the logits say %d", name, i, next[i][0], want)
			}
			sum := 0.0
			for _, v := range row[0] {
				sum += math.Exp(float64(v))
			}
			if want := float64(row[0][c.IDs[i][1]]) - math.Log(sum); math.Abs(scores[i][0]-want) > 1e-4 {
				t.Errorf("%s: row %d scores its second token %v, the logits say %v", name, i, scores[i][0], want)
			}
		}
	}
}

// Dropout before an adapter on the head is drawn anew in every step, and its gradients are those of the loss that it gives.
func TestDropoutBeforeTheHead(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		ctx := context.Background()
		c := readTuner(t, "ends_lora")
		m := c.load(t, backend, models.Options{})
		p, err := GetPeftModel(m, LoraConfig{R: 2, LoraAlpha: 40, LoraDropout: 0.4, InitLoraWeights: InitFalse, TargetModules: Modules("lm_head")})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		s, err := p.NewSession(training.SessionOptions{AdamBeta1: 0.9, AdamBeta2: 0.999, AdamEpsilon: 1e-8, Seed: 3})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		b := c.batch()
		first, last := 0.0, 0.0
		for i := range 30 {
			st, err := s.MicroStep(ctx, b)
			if err != nil {
				t.Fatal(err)
			}
			if last = st.LossSum; i == 0 {
				first = last
				plain, err := s.Evaluate(ctx, b)
				if err != nil {
					t.Fatal(err)
				}
				if math.Abs(plain.LossSum-first) < 1e-3 {
					t.Error("dropout changes nothing")
				}
			}
			if _, err := s.Apply(ctx, training.ApplyOptions{LearningRate: 0.02, NumItems: float64(b.NumLabels)}); err != nil {
				t.Fatal(err)
			}
		}
		if last > 0.8*first {
			t.Errorf("the loss went from %v to %v", first, last)
		}
	})
}

// A merge that makes a tied head differ from the embedding unties it in the folder.
func TestMergingUntiesTheHead(t *testing.T) {
	for name, untied := range map[string]bool{"ends_lora_gemma2": true, "head_full_gemma2": true, "tokens_gemma2": false} {
		c := readTuner(t, name)
		p := c.open(t, c.load(t, "", models.Options{}))
		dir := t.TempDir()
		if err := p.SaveMerged(dir, MergeOptions{}); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		var config map[string]any
		if err := json.Unmarshal(raw, &config); err != nil || config["tie_word_embeddings"] != !untied {
			t.Errorf("%s: tie_word_embeddings is %v, %v", name, config["tie_word_embeddings"], err)
		}
	}
}

func TestWhatTheEndsCannotIsRefused(t *testing.T) {
	c := readTuner(t, "ends_full")
	m := c.load(t, "", models.Options{})
	get := func(cfg LoraConfig) error { _, err := GetPeftModel(m, cfg); return err }
	p := c.open(t, m)
	if err := p.AddAdapter("lora", LoraConfig{TargetModules: Modules("q_proj", "lm_head")}); err != nil {
		t.Fatal(err)
	}
	_, mixed := p.ForRows("lora")
	for want, err := range map[string]error{
		`use_dora true, lora_bias false: at the model's`:    get(LoraConfig{UseDora: true, TargetModules: Modules("embed_tokens")}),
		`is targeted, and trainable_token_indices`:          get(LoraConfig{TrainableTokenIndices: []int{1}, TargetModules: Modules("embed_tokens")}),
		`holds 4000, the model has`:                         get(LoraConfig{TrainableTokenIndices: []int{4000}}),
		`"model.embed_tokens" is not in a layer`:            get(LoraConfig{InitLoraWeights: InitPiSSA, R: 2, TargetModules: Modules("embed_tokens")}),
		`modules_to_save ["embed_tokens", "lm_head"]: adap`: mixed,
		`the model's ends are not merged in place`:          p.MergeAdapter(false),
		`have nothing at the model's ends`:                  p.PrepareHotswap(0),
		`modules_to_save ["embed_tokens", "lm_head"]: what`: p.SetAdapter("lora", DefaultAdapter),
		`modules_to_save ["embed_tokens", "lm_head"]: llam`: p.SaveGGUF(t.TempDir() + "/a.gguf"),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	for _, target := range []ExportTarget{ExportVLLM, ExportLlamaCpp} {
		if r, err := p.CheckExport(target); err != nil || r.OK() || !strings.Contains(r.String(), "modules_to_save") {
			t.Errorf("%v\n%s", err, r)
		}
	}
	g := readTuner(t, "ends_lora_gemma2")
	tied := g.open(t, g.load(t, "", models.Options{}))
	if r, err := tied.CheckExport(ExportLlamaCpp); err != nil || r.OK() || !strings.Contains(r.String(), "tied to its embedding") {
		t.Errorf("%v\n%s", err, r)
	}
}
