package peft

import (
	"encoding/json/v2"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"gonum.org/v1/gonum/mat"

	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

const peftTypeOFT = "OFT"

// PEFT's defaults of [OFTConfig].
const (
	DefaultOFTBlockSize = 32
	DefaultNeumannTerms = 5
	DefaultCOFTEps      = 6e-5
)

// OFTConfig configures OFT (arXiv:2306.07280, with rotated inputs as arXiv:2506.19847): y = W (x R) + b with a block-diagonal R of
// rotations, one for each OFTBlockSize inputs. Fields, JSON and defaults are those of PEFT 0.21's OFTConfig.
type OFTConfig struct {
	R            int `json:"r"`              // number of blocks, in place of OFTBlockSize
	OFTBlockSize int `json:"oft_block_size"` // 0 with R 0: 32; where it does not divide the inputs, the nearest size that does
	// UseCayleyNeumann approximates the inverse in Cayley's formula by NumCayleyNeumannTerms of its Neumann series; nil: true. The
	// exact rotations are the transposes of the approximated ones, as in PEFT, so that weights of one kind do not fit the other.
	UseCayleyNeumann      *bool   `json:"use_cayley_neumann"`
	NumCayleyNeumannTerms int     `json:"num_cayley_neumann_terms"` // 0: 5
	BlockShare            bool    `json:"block_share"`              // one rotation for all blocks of a linear
	ModuleDropout         float64 `json:"module_dropout"`           // PEFT 0.21 does not use it on linears
	InitWeights           *bool   `json:"init_weights"`             // nil: true: no rotation; false: normal numbers, for tests
	// COFT keeps the norm of a block's skew-symmetric matrix within Eps over the root of the number of matrices: what is computed is
	// projected there, and weights are before each step of training, as in PEFT, whose files thus may hold others.
	COFT bool    `json:"coft"`
	Eps  float64 `json:"eps"` // 0: 6e-5

	TargetModules     TargetModules `json:"target_modules"` // and the three below as LoraConfig's
	ExcludeModules    TargetModules `json:"exclude_modules"`
	LayersToTransform []int         `json:"layers_to_transform"`
	LayersPattern     []string      `json:"layers_pattern"`
	Origin
}

// Type is "OFT".
func (OFTConfig) Type() string { return peftTypeOFT }

// Validate implements [Config].
func (c OFTConfig) Validate() error {
	c = c.withDefaults()
	switch {
	case c.R < 0 || c.OFTBlockSize < 0:
		return fmt.Errorf("r %d, oft_block_size %d: must not be negative", c.R, c.OFTBlockSize)
	case c.R != 0 && c.OFTBlockSize != 0:
		return fmt.Errorf("r %d and oft_block_size %d: give one of them, their product is the number of inputs", c.R, c.OFTBlockSize)
	case c.NumCayleyNeumannTerms < 1:
		return fmt.Errorf("num_cayley_neumann_terms %d: must be positive", c.NumCayleyNeumannTerms)
	case !(c.Eps > 0) || !finite(c.Eps):
		return fmt.Errorf("eps %v: must be a positive number", c.Eps)
	}
	return errors.Join(c.Origin.validate(), c.targeting().validateRanked("", 0, c.ModuleDropout))
}

// MarshalJSON returns the config with PEFT's keys and the values that an adapter folder would hold.
func (c OFTConfig) MarshalJSON() ([]byte, error) {
	return appendPythonJSON(nil, c.fields(), compact), c.Validate()
}

// UnmarshalJSON reads a config with PEFT's keys; missing ones are PEFT's defaults, unknown ones errors. It does not validate.
func (c *OFTConfig) UnmarshalJSON(data []byte) error { return unmarshalSettings(c, data) }

func (c *OFTConfig) origin() *Origin { return &c.Origin }

func (c *OFTConfig) settings() []setting {
	all := append(targetSettings(&c.TargetModules, &c.ExcludeModules), layerSettings(&c.LayersToTransform, &c.LayersPattern)...)
	return append(all, intSetting("r", &c.R), intSetting("oft_block_size", &c.OFTBlockSize), yesSetting("use_cayley_neumann", &c.UseCayleyNeumann),
		intSetting("num_cayley_neumann_terms", &c.NumCayleyNeumannTerms), flagSetting("block_share", &c.BlockShare), floatSetting("module_dropout", &c.ModuleDropout),
		yesSetting("init_weights", &c.InitWeights), flagSetting("coft", &c.COFT), floatSetting("eps", &c.Eps), idleSetting("fan_in_fan_out", false),
		idleSetting("peft_version", oftVersion), refusedSetting("bias", "none"))
}

// oftVersion is the PEFT whose rotations these are; PEFT warns of files that do not say so.
const oftVersion = "0.21.2"

// parseOFT also warns of files that are older than the series as it is now, in 0.18.
func parseOFT(data []byte) (Config, []string, error) {
	c, warnings, err := parseSettings[OFTConfig](data)
	var file struct {
		PeftVersion string `json:"peft_version"`
	}
	if err == nil && yes(c.UseCayleyNeumann) && json.Unmarshal(data, &file) == nil {
		var major, minor int
		if n, _ := fmt.Sscanf(file.PeftVersion, "%d.%d", &major, &minor); n < 2 || major == 0 && minor < 18 {
			warnings = append(warnings, fmt.Sprintf("peft_version %q: PEFT before 0.18 computed use_cayley_neumann differently: what such an adapter learned is not what it does now, in PEFT neither", file.PeftVersion))
		}
	}
	return asConfig(c, warnings, err)
}

func (c OFTConfig) withDefaults() OFTConfig {
	if c.R == 0 {
		c.OFTBlockSize = orDefault(c.OFTBlockSize, DefaultOFTBlockSize)
	}
	c.NumCayleyNeumannTerms, c.Eps = orDefault(c.NumCayleyNeumannTerms, DefaultNeumannTerms), orDefault(c.Eps, DefaultCOFTEps)
	return c
}

func (c OFTConfig) fields() object { c = c.withDefaults(); return settingsObject(&c) }

func (c OFTConfig) of(base string) Config { c.Origin = c.Origin.of(base); return c }

func (c OFTConfig) attach(p *PeftModel, from *weightsFile) (tuner, []models.LoRA, error) {
	return attachMethod(p, c, from)
}

func (c OFTConfig) targeting() targeting {
	return targeting{TargetModules: c.TargetModules, ExcludeModules: c.ExcludeModules, LayersToTransform: c.LayersToTransform, LayersPattern: c.LayersPattern,
		R: 1, Alpha: 1, defaults: defaultTargets}
}

func (c OFTConfig) resolved(_ string, targets TargetModules) (method, error) {
	c = c.withDefaults()
	c.TargetModules = targets
	return c, nil
}

// blocks are the number and the size of the blocks on so many inputs.
func (c OFTConfig) blocks(in int) (n, size int) {
	if c.R != 0 {
		n = nearestDivisor(in, c.R)
		return n, in / n
	}
	size = nearestDivisor(in, c.OFTBlockSize)
	return in / size, size
}

// nearestDivisor is n, or the divisor of in that is nearest to it, the smaller of two: adjust_oft_parameters of
// peft/tuners/oft/layer.py.
func nearestDivisor(in, n int) int {
	if n >= in {
		return in
	}
	above, below := n, n
	for in%above != 0 {
		above++
	}
	for below > 1 && in%below != 0 {
		below--
	}
	if n-below <= above-n {
		return below
	}
	return above
}

func (c OFTConfig) plan(targets []Target, seed int64) (p plan, err error) {
	for _, t := range targets {
		n, size := c.blocks(t.In)
		if c.BlockShare {
			n = 1
		}
		if size == 1 {
			return p, fmt.Errorf("module %q: blocks of one input, of %d, cannot turn; use another oft_block_size or r", t.Path, t.In)
		}
		o := oft{size: size, neumann: yes(c.UseCayleyNeumann), terms: c.NumCayleyNeumannTerms}
		if c.COFT {
			o.most = c.Eps
		}
		weight := formTensor{name: "oft_R.weight", shape: []int{n, size * (size - 1) / 2}}
		if weight.values = make([]float32, weight.size()); !yes(c.InitWeights) {
			newStream(seed, t.Path+".oft_R").normal(weight.values, 0.1)
		}
		f := form{tuner: o, tensors: []formTensor{weight}}
		f.merge, f.unmerge = rotationChanges(t.In, o.host)
		p.forms = append(p.forms, f)
	}
	return p, nil
}

// oft is the tuner of inputs that are rotated in blocks of a size.
type oft struct {
	size    int
	neumann bool
	terms   int
	most    float64 // COFT's eps; 0: any rotation
}

// within are weights v [n, _] of COFT: those of blocks that turn by too much are made smaller (_project_batch of
// peft/tuners/oft/layer.py). The norm is that of the skew-symmetric matrix, which has each weight twice.
func (t oft) within(v *Node) *Node {
	most := t.most / math.Sqrt(float64(v.Shape().Dim(0)))
	norm := Sqrt(MulScalar(ReduceAndKeep(Mul(v, v), ReduceSum, 1), 2))
	return Mul(v, MinScalar(MulScalar(Inverse(MaxScalar(norm, 1e-30)), most), 1))
}

// session constrains the weights of COFT before each step.
func (c OFTConfig) session(_ *methodSet, start func(training.SessionOptions) (training.Session, error), o training.SessionOptions) (training.Session, error) {
	if c.COFT {
		o.Constraint = &training.Constraint{Name: fmt.Sprint("coft ", c.Eps), Applies: func(tensor string) bool { return strings.HasSuffix(tensor, ".oft_R.weight") },
			Project: oft{most: c.Eps}.within}
	}
	return start(o)
}

func (t oft) Key() string { return fmt.Sprint("oft ", t) }

// Apply implements [nn.Tuner]. Inputs are rotated in float32 and rounded once.
func (t oft) Apply(o nn.Operands) *Node {
	v := o.Tensors[0]
	if t.most > 0 { // as PEFT, which changes the weights themselves: the gradient is that of where they are then
		v = Add(v, StopGradient(Sub(t.within(v), v)))
	}
	q := t.skew(v)
	r := q
	if t.neumann {
		r = t.series(q)
	} else {
		r = cayley(q)
	}
	return o.Plain(ConvertDType(rotateBlocks(inFloat32(o.X), r), o.X.DType()))
}

// skew are the skew-symmetric matrices [n, size, size] of which v [n, size·(size-1)/2] are the upper triangles.
func (t oft) skew(v *Node) *Node {
	n := v.Shape().Dim(0)
	places, none := make([][]int32, t.size*t.size), int32(v.Shape().Dim(1))
	next := int32(0)
	for i := range t.size {
		for j := range t.size {
			places[i*t.size+j] = []int32{none}
			if j > i {
				places[i*t.size+j], next = []int32{next}, next+1
			}
		}
	}
	g := v.Graph()
	padded := Concatenate([]*Node{Transpose(v, 0, 1), Zeros(g, shapes.Make(dtypes.Float32, 1, n))}, 0) // [_ + 1, n]
	upper := Reshape(Transpose(Gather(padded, Const(g, places)), 0, 1), n, t.size, t.size)
	return Sub(upper, TransposeAllAxes(upper, 0, 2, 1))
}

// series is I + 2Q + 2Q² + … + Qᵏ, the rotations by Neumann's series.
func (t oft) series(q *Node) *Node {
	r := identities(q.Graph(), t.size)
	if t.terms > 1 {
		r = Add(r, MulScalar(q, 2))
	}
	if t.terms > 2 {
		power := batched(q, q)
		r = Add(r, MulScalar(power, 2))
		for i := 3; i < t.terms-1; i++ {
			power = batched(power, q)
			r = Add(r, MulScalar(power, 2))
		}
		r = Add(r, batched(power, q))
	}
	if n := q.Shape().Dim(0); r.Shape().Dim(0) != n { // no term but I
		r = BroadcastToDims(r, n, t.size, t.size)
	}
	return r
}

// host are the rotations of the blocks.
func (t oft) host(values [][]float32) (blocks []*mat.Dense) {
	v := values[0]
	blockSize := t.size * (t.size - 1) / 2
	if t.most > 0 {
		v = t.hostWithin(v, len(v)/blockSize)
	}
	for ; len(v) > 0; v = v[blockSize:] {
		q, next := mat.NewDense(t.size, t.size, nil), 0
		for i := range t.size {
			for j := i + 1; j < t.size; j++ {
				q.Set(i, j, float64(v[next]))
				q.Set(j, i, -float64(v[next]))
				next++
			}
		}
		if t.neumann {
			blocks = append(blocks, t.hostSeries(q))
		} else {
			blocks = append(blocks, hostCayley(q))
		}
	}
	return blocks
}

// hostWithin is within on the host.
func (t oft) hostWithin(v []float32, blocks int) []float32 {
	out, most, n := slices.Clone(v), t.most/math.Sqrt(float64(blocks)), len(v)/blocks
	for own := range slices.Chunk(out, n) {
		norm := 0.0
		for _, x := range own {
			norm += 2 * float64(x) * float64(x)
		}
		if norm = math.Sqrt(norm); norm > most {
			for i := range own {
				own[i] *= float32(most / norm)
			}
		}
	}
	return out
}

func (t oft) hostSeries(q *mat.Dense) *mat.Dense {
	r := mat.NewDense(t.size, t.size, nil)
	for i := range t.size {
		r.Set(i, i, 1)
	}
	add := func(times float64, power *mat.Dense) {
		var scaled mat.Dense
		scaled.Scale(times, power)
		r.Add(r, &scaled)
	}
	times := func(a *mat.Dense) *mat.Dense {
		var b mat.Dense
		b.Mul(a, q)
		return &b
	}
	if t.terms > 1 {
		add(2, q)
	}
	if t.terms > 2 {
		power := times(q)
		add(2, power)
		for i := 3; i < t.terms-1; i++ {
			power = times(power)
			add(2, power)
		}
		add(1, times(power))
	}
	return r
}
