package peft

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// method is a tuner on linears that is no LoRA: what the file of each implements.
type method interface {
	Config
	targeting() targeting
	modulesToSave() []string
	// resolved is the config with its defaults filled in, and its targets as they were found in a model.
	resolved(modelType string, targets TargetModules) (method, error)
	// fields are what adapter_config.json holds.
	fields() object
	// plan says what there is to its adapters on the targets.
	plan(targets []Target, seed int64) (plan, error)
}

// trainedMethod is a method that has a part in training.
type trainedMethod interface {
	method
	// session trains the adapters by what start begins.
	session(s *methodSet, start func(training.SessionOptions) (training.Session, error), o training.SessionOptions) (training.Session, error)
}

// compactMethod is a method that writes less into files than there is on the device.
type compactMethod interface {
	method
	// forFile are the forms and the values of each target's tensors as a file has them.
	forFile(targets []Target, forms []form, values [][][]float32) ([]form, [][][]float32)
}

// plan is what a method makes of the targets of a model.
type plan struct {
	forms  []form // one for each target
	shared []sharedTensor
}

// form is the adapter on one linear.
type form struct {
	tuner   nn.Tuner // nil: there is nothing left of it
	dropout float64
	tensors []formTensor
	// merge and unmerge put values, those of all tensors in order, into the linear and take them out again.
	merge, unmerge func(values [][]float32) models.LinearChange
}

// formTensor is one of an adapter's tensors.
type formTensor struct {
	name   string // behind the module's path in files: "hada_w1_a"
	shape  []int
	values []float32     // first values
	shared *sharedTensor // where the values are, of one that all adapters share, which is not trained; else nil
}

// sharedTensor is not trained, and the same for all linears.
type sharedTensor struct {
	key    string // in files, whole; "": not saved
	shape  []int
	values []float32
}

func (t formTensor) size() int {
	n := 1
	for _, d := range t.shape {
		n *= d
	}
	return n
}

// methodSet are the adapters of a method on a base.
type methodSet struct {
	cfg     method
	targets []Target
	saved   []moduleCopy // of modules_to_save
	plan
}

// attachMethod makes the adapters of a method on the base of p: new ones, or those of a file.
func attachMethod(p *PeftModel, cfg method, from *weightsFile) (tuner, []models.LoRA, error) {
	modelType := p.base.Config().ModelType()
	want := cfg.targeting()
	want.ModulesToSave = cfg.modulesToSave()
	r, err := want.resolve(modelType, p.modules())
	if err != nil {
		return nil, nil, err
	}
	for _, w := range r.warnings {
		p.opts.logger.Warn(w)
	}
	for _, t := range r.targets {
		if atEnd(t.Path) {
			return nil, nil, fmt.Errorf("module %q: peft_type %s: the model's ends take LoRA alone; exclude it with exclude_modules", t.Path, cfg.Type())
		}
	}
	p.warnAltered()
	s := &methodSet{targets: r.targets}
	if s.cfg, err = cfg.resolved(modelType, r.as); err != nil {
		return nil, nil, err
	}
	if s.plan, err = s.cfg.plan(s.targets, p.opts.seed); err != nil {
		return nil, nil, err
	}
	if s.saved, err = p.saved(want.ModulesToSave); err != nil {
		return nil, nil, err
	}
	copies, err := p.copies(s.saved, func(m moduleCopy) (weight, bias []float32, err error) {
		if from == nil {
			return p.ofBase(m)
		}
		return from.readCopy(m, "")
	})
	if err != nil {
		return nil, nil, err
	}
	if from != nil {
		warnings, err := s.read(from.File)
		if err != nil {
			return nil, nil, fmt.Errorf("read %s: %w", from.path, err)
		}
		for _, w := range warnings {
			p.opts.logger.Warn(from.path + ": " + w)
		}
	}
	first := make([][][]float32, len(s.forms))
	for i, f := range s.forms {
		for _, t := range f.tensors {
			first[i] = append(first[i], t.values)
		}
	}
	return s, append(s.with(first), copies...), nil
}

// with is what the model takes, with the values of each target's tensors.
func (s *methodSet) with(values [][][]float32) (all []models.LoRA) {
	for i, f := range s.forms {
		if f.tuner == nil {
			continue
		}
		t := &models.Tuned{Tuner: f.tuner, Dropout: f.dropout}
		own := slices.Clone(values[i])
		for j, n := range f.tensors {
			if n.shared != nil {
				own[j] = n.shared.values
			}
			t.Tensors = append(t.Tensors, models.TunedTensor{Name: n.name, Shape: n.shape, Values: own[j], Frozen: n.shared != nil})
		}
		t.Merge, t.Unmerge = f.merge(own), f.unmerge(own)
		all = append(all, models.LoRA{Path: s.targets[i].Path, Tuned: t})
	}
	return all
}

func (s *methodSet) config() Config     { return s.cfg }
func (s *methodSet) targeted() []Target { return s.targets }

func (s *methodSet) parameters() (n int64) {
	for _, f := range s.forms {
		for _, t := range f.tensors {
			if t.shared == nil {
				n += int64(t.size())
			}
		}
	}
	for _, m := range s.saved {
		n += m.parameters()
	}
	return n
}

func (s *methodSet) state(values map[string]models.LoRA) []models.LoRA {
	all := s.with(s.inOrder(values))
	for _, m := range s.saved {
		all = append(all, m.lora(values[m.path].Full, values[m.path].FullBias))
	}
	return all
}

// inOrder are the values of each target's tensors; those of shared ones are nil.
func (s *methodSet) inOrder(values map[string]models.LoRA) (all [][][]float32) {
	for i, t := range s.targets {
		by := map[string][]float32{}
		if on := values[t.Path].Tuned; on != nil {
			for _, n := range on.Tensors {
				by[n.Name] = n.Values
			}
		}
		var own [][]float32
		for _, n := range s.forms[i].tensors {
			own = append(own, by[n.name])
		}
		all = append(all, own)
	}
	return all
}

func (s *methodSet) save(dir string, values map[string]models.LoRA) error {
	var all []safetensors.Tensor
	put := func(key string, shape []int, values []float32) {
		all = append(all, safetensors.Tensor{Name: key, DType: "F32", Shape: shape, Data: littleEndian(values)})
	}
	forms, current := s.forms, s.inOrder(values)
	if c, ok := s.cfg.(compactMethod); ok {
		forms, current = c.forFile(s.targets, forms, current)
	}
	for i, own := range current {
		for j, n := range forms[i].tensors {
			if n.shared == nil {
				put(keyPrefix+s.targets[i].Path+"."+n.name, n.shape, own[j])
			}
		}
	}
	for _, n := range s.shared {
		if n.key != "" {
			put(n.key, n.shape, n.values)
		}
	}
	for _, m := range s.saved {
		all = append(all, m.tensors("", values[m.path])...)
	}
	return saveFields(dir, s.cfg.Type(), s.cfg.fields(), all)
}

// saveFields writes an adapter folder of a tuner that is no LoRA.
func saveFields(dir, peftType string, fields object, tensors []safetensors.Tensor) error {
	if dir == "" {
		return errors.New("save adapter: the name of the folder is empty")
	}
	for i, m := range fields {
		if m.key == "inference_mode" {
			fields[i].value = true
		}
	}
	return adapterFiles{config: appendPythonJSON(nil, fields, indented), card: methodCard(peftType, fields), tensors: tensors}.save(dir)
}

// read takes the values of a file in the place of the first ones, and returns what it warns of.
func (s *methodSet) read(file *safetensors.File) (warnings []string, err error) {
	keys, rest := map[string]string{}, map[string]bool{} // by what they are without what frameworks put before them
	for _, name := range file.Names() {
		bare := bareKey(name)
		if keys[bare] != "" {
			return nil, fmt.Errorf("tensors %q and %q are of the same module", keys[bare], name)
		}
		keys[bare], rest[bare] = name, true
	}
	adapter := s.adapterName(keys)
	get := func(bare string, shape []int) ([]float32, error) {
		key, ok := keys[bare]
		if !ok && adapter != "" {
			bare = withAdapter(bare, adapter)
			key, ok = keys[bare]
		}
		if !ok {
			return nil, fmt.Errorf("it has no tensor %q: the file is incomplete, or not of this config", bare)
		}
		delete(rest, bare)
		if info, _ := file.Info(key); !slices.Equal(info.Shape, shape) {
			return nil, fmt.Errorf("tensor %q %v: config and model want %v", key, info.Shape, shape)
		}
		return file.Float32(key)
	}
	for i, t := range s.targets {
		for j, n := range s.forms[i].tensors {
			if n.shared != nil {
				continue
			}
			if s.forms[i].tensors[j].values, err = get(t.Path+"."+n.name, n.shape); err != nil {
				return nil, err
			}
			if slices.ContainsFunc(s.forms[i].tensors[j].values, notFinite) {
				warnings = append(warnings, fmt.Sprintf("the adapter of module %q holds NaN or infinite values", t.Path))
			}
		}
	}
	for _, n := range s.shared {
		if n.key == "" {
			continue
		}
		values, err := get(bareKey(n.key), n.shape)
		if err != nil {
			return nil, err
		}
		copy(n.values, values)
	}
	for key := range rest {
		parts := copyKey.FindStringSubmatch(key)
		if parts != nil && slices.ContainsFunc(s.saved, func(m moduleCopy) bool { return m.path == parts[1] }) {
			delete(rest, key)
		}
	}
	more, err := s.leftOver(slices.Sorted(maps.Keys(rest)))
	return append(warnings, more...), err
}

// bareKey is a key without PEFT's prefix, and without torch.compile's.
func bareKey(key string) string {
	key = strings.TrimPrefix(key, "_orig_mod.")
	return strings.TrimPrefix(strings.TrimPrefix(key, keyPrefix), "_orig_mod.")
}

// withAdapter is a key with an adapter's name in it, as states that were saved by other means have it.
func withAdapter(bare, adapter string) string {
	if path, ok := strings.CutSuffix(bare, ".weight"); ok {
		return path + "." + adapter + ".weight"
	}
	return bare + "." + adapter
}

// adapterName finds the name that all keys have behind those of the first tensor, "" if there is none.
func (s *methodSet) adapterName(keys map[string]string) string {
	first := s.targets[0].Path + "." + s.forms[0].tensors[0].name
	stem := strings.TrimSuffix(first, ".weight")
	for bare := range keys {
		if name, ok := strings.CutPrefix(strings.TrimSuffix(bare, ".weight"), stem+"."); ok && withAdapter(first, name) == bare {
			return name
		}
	}
	return ""
}

// leftOver judges keys that nothing has asked for: those of modules that are not targeted are warned about.
func (s *methodSet) leftOver(keys []string) (warnings []string, err error) {
	for _, key := range keys {
		own := slices.ContainsFunc(s.forms, func(f form) bool {
			return slices.ContainsFunc(f.tensors, func(t formTensor) bool { return strings.Contains(key, "."+strings.TrimSuffix(t.name, ".weight")) })
		})
		shared := slices.ContainsFunc(s.forms[0].tensors, func(t formTensor) bool { return t.shared != nil && strings.Contains(key, t.name) })
		switch {
		case strings.HasSuffix(key, ".base_layer.weight"):
			warnings = append(warnings, fmt.Sprintf("tensor %q is ignored: it is a copy of the base model's weight", key))
		case own, shared:
			warnings = append(warnings, fmt.Sprintf("tensor %q is not used: the config does not ask for it", key))
		default:
			return nil, fmt.Errorf("tensor %q: %s", key, foreignKey(key))
		}
	}
	return warnings, nil
}
