package peft

import (
	"errors"
	"fmt"
	"slices"

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

// saves tells whether modules_to_save has the module at path.
func (c LoraConfig) saves(path string) bool {
	return slices.ContainsFunc(c.ModulesToSave, func(name string) bool { return saves(name, path) })
}

// checkEnds checks modules_to_save and trainable_token_indices.
func (c LoraConfig) checkEnds() error {
	if slices.Contains(c.ModulesToSave, "") {
		return fmt.Errorf("modules_to_save %v holds an empty name; name modules, or leave it nil", moduleNames(c.ModulesToSave))
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
func (c LoraConfig) checkEndTargets(targets []Target, tied bool) error {
	for _, t := range targets {
		switch {
		case !atEnd(t.Path):
		case c.EnsureWeightTying && tied:
			return fmt.Errorf("ensure_weight_tying true with a LoRA on %q: what PEFT makes of it are two parameters in one memory, which optimizers update twice; use modules_to_save or trainable_token_indices, or leave ensure_weight_tying out", t.Path)
		case c.UseDora || c.LoraBias:
			return fmt.Errorf("module %q: use_dora %v, lora_bias %v: at the model's ends there are A and B alone; exclude it with exclude_modules", t.Path, c.UseDora, c.LoraBias)
		case t.Path == models.EmbeddingPath && len(c.TrainableTokenIndices) > 0:
			return fmt.Errorf("module %q is targeted, and trainable_token_indices are rows of it; leave one of them out", t.Path)
		}
	}
	return nil
}

// addEnds gives a set what it trains beside LoRA, copies of modules and rows of tokens: new, which is the base's, or as it is stored.
func (p *PeftModel) addEnds(s *loraSet, loras []models.LoRA, stored map[string]AdapterWeight) ([]models.LoRA, error) {
	vocab, hidden := s.embed.In, s.embed.Out
	saved, err := p.saved(s.cfg.ModulesToSave)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(saved, func(m moduleCopy) bool { return m.bias }); i >= 0 && s.cfg.Bias == BiasAll {
		return nil, fmt.Errorf("bias %q with modules_to_save of %q: that trains its bias already; use bias %q or %q", BiasAll, saved[i].path, BiasNone, BiasLoraOnly)
	}
	copies, err := p.copies(saved, func(m moduleCopy) (weight, bias []float32, err error) {
		if stored == nil {
			return p.ofBase(m)
		}
		w := stored[m.path]
		if len(w.Full) != m.out*max(1, m.in) || m.bias && len(w.BaseBias) != m.out {
			return nil, nil, fmt.Errorf("module %q: modules_to_save has %d values of it, want %v: adapters of another model, or of a resized vocabulary, do not fit", m.path, len(w.Full), m.shape())
		}
		return w.Full, w.BaseBias, nil
	})
	if err != nil {
		return nil, err
	}
	for i := range copies {
		copies[i].TieHead = s.tie && copies[i].Path == models.EmbeddingPath
	}
	s.saved, loras = saved, append(loras, copies...)
	tokens := s.cfg.TrainableTokenIndices
	if len(tokens) == 0 {
		return loras, nil
	}
	rows := stored[models.EmbeddingPath].Rows
	if stored == nil {
		all, err := p.base.Tensor(models.EmbeddingPath + ".weight")
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

// endWeights are what a set trains beside LoRA, copies of modules and rows of tokens, with current values.
func (s *loraSet) endWeights(values map[string]models.LoRA) (all []AdapterWeight) {
	for _, m := range s.saved {
		v := values[m.path]
		all = append(all, AdapterWeight{Path: m.path, Full: v.Full, BaseBias: v.FullBias, In: m.in, Out: m.out})
	}
	if len(s.cfg.TrainableTokenIndices) > 0 {
		all = append(all, AdapterWeight{Path: models.EmbeddingPath, Rows: values[models.EmbeddingPath].Rows})
	}
	return all
}

// endLoras are the same as the model takes them.
func (s *loraSet) endLoras(values map[string]models.LoRA) (all []models.LoRA) {
	for _, w := range s.endWeights(values) {
		l := models.LoRA{Path: w.Path, Full: w.Full, FullBias: w.BaseBias, Rows: w.Rows, TieHead: s.tie && w.Path == models.EmbeddingPath}
		if w.Rows != nil {
			l.Tokens = s.cfg.TrainableTokenIndices
		}
		all = append(all, l)
	}
	return all
}

// refuseEnds is that of a set of LoRA adapters, and an error for sets that are nothing else; others have nothing there.
func (s *adapterSet) refuseEnds(what string) error {
	switch l := s.tuner.(type) {
	case *loraSet:
		return l.refuseEnds(what)
	case *methodSet:
		if len(l.saved) > 0 {
			return fmt.Errorf("modules_to_save %v: %s", moduleNames(l.cfg.modulesToSave()), what)
		}
	case *lnSet, *promptSet:
		return fmt.Errorf("peft_type %s: %s", s.config().Type(), what)
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

// tied is the config as PEFT makes it where the head is to stay tied to the embedding, and whether there is something to tie: of
// both in modules_to_save the embedding is left, by its path.
func (p *PeftModel) tied(c LoraConfig) (LoraConfig, bool) {
	if !c.EnsureWeightTying {
		return c, false
	}
	if !p.base.Tied() {
		p.opts.logger.Warn("ensure_weight_tying is true, but the model's head is not tied to its embedding")
		return c, false
	}
	if !c.saves(models.EmbeddingPath) && !c.saves(models.HeadPath) {
		if len(c.TrainableTokenIndices) == 0 {
			p.opts.logger.Warn("ensure_weight_tying is true, but modules_to_save has neither the embedding nor the head")
		}
		return c, false
	}
	names := slices.DeleteFunc(slices.Clone(c.ModulesToSave), func(name string) bool { return saves(name, models.HeadPath) })
	if !slices.Contains(names, models.EmbeddingPath) {
		names = append(names, models.EmbeddingPath)
	}
	c.ModulesToSave = names
	return c, true
}
