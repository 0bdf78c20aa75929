package peft

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/loris-ml/loris/models"
)

// Keys in files of what is trained at a model's ends.
const (
	suffixEmbeddingA = ".lora_embedding_A" // without ".weight"
	suffixEmbeddingB = ".lora_embedding_B"
	suffixFull       = ".weight"
	suffixTokens     = ".token_adapter.trainable_tokens_delta" // whole rows, whatever the name says
)

// atEnd tells whether path is the embedding or the head.
func atEnd(path string) bool { return path == models.EmbeddingPath || path == models.HeadPath }

// saves tells whether modules_to_save has the embedding or the head at path.
func (c LoraConfig) saves(path string) bool {
	return slices.ContainsFunc(c.ModulesToSave, func(name string) bool { return path == name || strings.HasSuffix(path, "."+name) })
}

// checkEnds checks modules_to_save and trainable_token_indices.
func (c LoraConfig) checkEnds() error {
	for _, name := range c.ModulesToSave {
		one := LoraConfig{ModulesToSave: []string{name}}
		if name == "" || !one.saves(models.EmbeddingPath) && !one.saves(models.HeadPath) {
			return unsupported("modules_to_save", moduleNames(c.ModulesToSave).String(), `"embed_tokens" and "lm_head" can be trained in full; `+dissolveRemedy)
		}
	}
	for i, id := range c.TrainableTokenIndices {
		switch {
		case id < 0:
			return fmt.Errorf("trainable_token_indices holds %d: tokens are counted from 0", id)
		case slices.Contains(c.TrainableTokenIndices[:i], id):
			return fmt.Errorf("trainable_token_indices holds %d twice", id)
		}
	}
	if len(c.TrainableTokenIndices) > 0 && c.saves(models.EmbeddingPath) {
		return errors.New("trainable_token_indices with modules_to_save of the embedding: all its rows are trained already; leave one of them out")
	}
	return nil
}

// checkEndTargets refuses at the ends what is not trained there, for the targets of a model.
func (c LoraConfig) checkEndTargets(targets []Target) error {
	for _, t := range targets {
		switch {
		case !atEnd(t.Path):
		case c.UseDora || c.LoraBias:
			return fmt.Errorf("module %q: use_dora %v, lora_bias %v: at the model's ends there are A and B alone; exclude it with exclude_modules", t.Path, c.UseDora, c.LoraBias)
		case t.Path == models.EmbeddingPath && len(c.TrainableTokenIndices) > 0:
			return fmt.Errorf("module %q is targeted, and trainable_token_indices are rows of it; leave one of them out", t.Path)
		}
	}
	return nil
}

// addEnds gives a set what it trains of the model's ends beside LoRA: new, which is the base's, or as it is stored.
func (p *PeftModel) addEnds(s *loraSet, loras []models.LoRA, stored map[string]AdapterWeight) ([]models.LoRA, error) {
	vocab, hidden := s.embed.In, s.embed.Out
	weight := func(path string) ([]float32, error) {
		if p.base.Tied() {
			path = models.EmbeddingPath
		}
		return p.base.Tensor(path + ".weight")
	}
	s.full = nil
	for _, path := range []string{models.EmbeddingPath, models.HeadPath} {
		if !s.cfg.saves(path) {
			continue
		}
		l := models.LoRA{Path: path, Full: stored[path].Full}
		if stored == nil {
			var err error
			if l.Full, err = weight(path); err != nil {
				return nil, err
			}
		}
		if len(l.Full) != vocab*hidden {
			return nil, fmt.Errorf("module %q: modules_to_save has %d values of it, want [%d, %d]: adapters of a resized vocabulary do not fit the model", path, len(l.Full), vocab, hidden)
		}
		s.full, loras = append(s.full, path), append(loras, l)
	}
	tokens := s.cfg.TrainableTokenIndices
	if len(tokens) == 0 {
		return loras, nil
	}
	rows := stored[models.EmbeddingPath].Rows
	if stored == nil {
		all, err := weight(models.EmbeddingPath)
		if err != nil {
			return nil, err
		}
		for _, id := range tokens {
			if id >= vocab {
				return nil, fmt.Errorf("trainable_token_indices holds %d, the model has %d tokens", id, vocab)
			}
			rows = append(rows, all[id*hidden:(id+1)*hidden]...)
		}
	}
	if len(rows) != len(tokens)*hidden {
		return nil, fmt.Errorf("trainable_token_indices are %d tokens, the file has %d values of them, want [%d, %d]", len(tokens), len(rows), len(tokens), hidden)
	}
	return append(loras, models.LoRA{Path: models.EmbeddingPath, Tokens: tokens, Rows: rows}), nil
}

// endWeights are what a set trains of the model's ends beside LoRA, with current values.
func (s *loraSet) endWeights(values map[string]models.LoRA) (all []AdapterWeight) {
	for _, path := range s.full {
		all = append(all, AdapterWeight{Path: path, Full: values[path].Full, In: s.embed.Out, Out: s.embed.In})
	}
	if len(s.cfg.TrainableTokenIndices) > 0 {
		all = append(all, AdapterWeight{Path: models.EmbeddingPath, Rows: values[models.EmbeddingPath].Rows})
	}
	return all
}

// endLoras are the same as the model takes them.
func (s *loraSet) endLoras(values map[string]models.LoRA) (all []models.LoRA) {
	for _, w := range s.endWeights(values) {
		l := models.LoRA{Path: w.Path, Full: w.Full, Rows: w.Rows}
		if w.Rows != nil {
			l.Tokens = s.cfg.TrainableTokenIndices
		}
		all = append(all, l)
	}
	return all
}

// refuseEnds is that of a set of LoRA adapters; others have nothing there.
func (s *adapterSet) refuseEnds(what string) error {
	if l, ok := s.tuner.(*loraSet); ok {
		return l.refuseEnds(what)
	}
	return nil
}

// refuseEnds is the error for what adapters at the model's ends have no form for.
func (s *loraSet) refuseEnds(what string) error {
	for _, t := range s.targets {
		if atEnd(t.Path) {
			return fmt.Errorf("module %q: %s", t.Path, what)
		}
	}
	if len(s.cfg.ModulesToSave)+len(s.cfg.TrainableTokenIndices) > 0 {
		return fmt.Errorf("modules_to_save or trainable_token_indices: %s", what)
	}
	return nil
}

// initEmbedding returns the A [r, vocab] and B [hidden, r] that a LoRA on the embedding starts from: A zero and B normal, and
// with InitFalse both normal, as PEFT's.
func initEmbedding(seed int64, path string, how Init, r, in, out int) (a, b []float32) {
	a, b = make([]float32, r*in), make([]float32, out*r)
	if how == InitFalse {
		newStream(seed, path+suffixEmbeddingA).normal(a, 1)
	}
	newStream(seed, path+suffixEmbeddingB).normal(b, 1)
	return a, b
}
