package peft

import (
	"errors"
	"fmt"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"gonum.org/v1/gonum/mat"

	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/models"
)

const peftTypeBOFT = "BOFT"

// DefaultBOFTBlockSize is PEFT's default of [BOFTConfig].
const DefaultBOFTBlockSize = 4

// BOFTConfig configures BOFT (arXiv:2311.06243): y = s ∘ W (x R) + b with trained scales s and a rotation R that is a product of
// BOFTNButterflyFactor matrices, each block-diagonal between permutations. Fields, JSON and defaults are those of PEFT 0.21's
// BOFTConfig; PEFT computes more than one factor on CUDA alone, and takes one elsewhere, whatever the config says.
type BOFTConfig struct {
	BOFTBlockSize        int     `json:"boft_block_size"`         // 0 with BOFTBlockNum 0: 4; it must divide the inputs
	BOFTBlockNum         int     `json:"boft_block_num"`          // number of blocks, in place of their size
	BOFTNButterflyFactor int     `json:"boft_n_butterfly_factor"` // 0: 1
	BOFTDropout          float64 `json:"boft_dropout"`            // share of the blocks of one factor that do not turn, while training
	InitWeights          *bool   `json:"init_weights"`            // nil: true: no rotation; false: normal numbers, for tests

	TargetModules     TargetModules `json:"target_modules"` // and the three below as LoraConfig's
	ExcludeModules    TargetModules `json:"exclude_modules"`
	LayersToTransform []int         `json:"layers_to_transform"`
	LayersPattern     []string      `json:"layers_pattern"`
	Origin
}

// Type is "BOFT".
func (BOFTConfig) Type() string { return peftTypeBOFT }

// Validate implements [Config].
func (c BOFTConfig) Validate() error {
	c = c.withDefaults()
	switch {
	case c.BOFTBlockSize < 0 || c.BOFTBlockNum < 0:
		return fmt.Errorf("boft_block_size %d, boft_block_num %d: must not be negative", c.BOFTBlockSize, c.BOFTBlockNum)
	case c.BOFTBlockSize != 0 && c.BOFTBlockNum != 0:
		return fmt.Errorf("boft_block_size %d and boft_block_num %d: give one of them, their product is the number of inputs", c.BOFTBlockSize, c.BOFTBlockNum)
	case c.BOFTNButterflyFactor < 1:
		return fmt.Errorf("boft_n_butterfly_factor %d: must be positive", c.BOFTNButterflyFactor)
	}
	return errors.Join(c.Origin.validate(), c.targeting().validateRanked("", 0, c.BOFTDropout))
}

// MarshalJSON returns the config with PEFT's keys and the values that an adapter folder would hold.
func (c BOFTConfig) MarshalJSON() ([]byte, error) {
	return appendPythonJSON(nil, c.fields(), compact), c.Validate()
}

// UnmarshalJSON reads a config with PEFT's keys; missing ones are PEFT's defaults, unknown ones errors. It does not validate.
func (c *BOFTConfig) UnmarshalJSON(data []byte) error { return unmarshalSettings(c, data) }

func (c *BOFTConfig) origin() *Origin { return &c.Origin }

func (c *BOFTConfig) settings() []setting {
	all := append(targetSettings(&c.TargetModules, &c.ExcludeModules), layerSettings(&c.LayersToTransform, &c.LayersPattern)...)
	return append(all, intSetting("boft_block_size", &c.BOFTBlockSize), intSetting("boft_block_num", &c.BOFTBlockNum),
		intSetting("boft_n_butterfly_factor", &c.BOFTNButterflyFactor), floatSetting("boft_dropout", &c.BOFTDropout), yesSetting("init_weights", &c.InitWeights),
		idleSetting("fan_in_fan_out", false), refusedSetting("bias", "none"))
}

func (c BOFTConfig) withDefaults() BOFTConfig {
	if c.BOFTBlockNum == 0 {
		c.BOFTBlockSize = orDefault(c.BOFTBlockSize, DefaultBOFTBlockSize)
	}
	c.BOFTNButterflyFactor = orDefault(c.BOFTNButterflyFactor, 1)
	return c
}

func (c BOFTConfig) fields() object { c = c.withDefaults(); return settingsObject(&c) }

func (c BOFTConfig) of(base string) Config { c.Origin = c.Origin.of(base); return c }

func (c BOFTConfig) attach(p *PeftModel, from *weightsFile) (tuner, []models.LoRA, error) {
	return attachMethod(p, c, from)
}

func (c BOFTConfig) targeting() targeting {
	return targeting{TargetModules: c.TargetModules, ExcludeModules: c.ExcludeModules, LayersToTransform: c.LayersToTransform, LayersPattern: c.LayersPattern,
		R: 1, Alpha: 1, defaults: defaultTargets}
}

func (c BOFTConfig) resolved(_ string, targets TargetModules) (method, error) {
	c = c.withDefaults()
	c.TargetModules = targets
	return c, nil
}

// blocks are the number and the size of the blocks on so many inputs; errors as those of update_layer of
// peft/tuners/boft/layer.py.
func (c BOFTConfig) blocks(in int) (n, size int, err error) {
	given := max(c.BOFTBlockNum, c.BOFTBlockSize)
	if in%given != 0 {
		return 0, 0, fmt.Errorf("%d inputs must be divisible by boft_block_size %d or boft_block_num %d", in, c.BOFTBlockSize, c.BOFTBlockNum)
	}
	if n, size = in/given, given; c.BOFTBlockNum != 0 {
		n, size = size, n
	}
	if more := c.BOFTNButterflyFactor - 1; more > 0 && (n%(1<<more) != 0 || size%2 != 0) {
		return 0, 0, fmt.Errorf("boft_n_butterfly_factor %d needs blocks of an even size, in a number that is a multiple of %d; these are %d of size %d", c.BOFTNButterflyFactor, 1<<more, n, size)
	}
	return n, size, nil
}

func (c BOFTConfig) plan(targets []Target, seed int64) (p plan, err error) {
	for _, t := range targets {
		n, size, err := c.blocks(t.In)
		if err != nil {
			return p, fmt.Errorf("module %q: %w", t.Path, err)
		}
		r := formTensor{name: "boft_R", shape: []int{c.BOFTNButterflyFactor, n, size, size}}
		s := formTensor{name: "boft_s", shape: []int{t.Out, 1}}
		r.values, s.values = make([]float32, r.size()), make([]float32, t.Out)
		if !yes(c.InitWeights) {
			newStream(seed, t.Path+".boft_R").normal(r.values, 0.1)
			newStream(seed, t.Path+".boft_s").normal(s.values, 0.1)
		}
		for i := range s.values {
			s.values[i]++
		}
		b := boft{factors: c.BOFTNButterflyFactor, blocks: n, size: size, still: int(c.BOFTDropout * float64(n))}
		p.forms = append(p.forms, form{tuner: b, dropout: c.BOFTDropout, tensors: []formTensor{r, s},
			merge: func(v [][]float32) models.LinearChange {
				return models.LinearChange{Weight: func(w []float32) { b.merge(w, v) }}
			},
			unmerge: func(v [][]float32) models.LinearChange {
				return models.LinearChange{Weight: func(w []float32) { b.unmerge(w, v) }}
			}})
	}
	return p, nil
}

// boft is the tuner of inputs that are turned by a product of block-diagonal matrices, and outputs that are scaled.
type boft struct {
	factors, blocks, size int
	still                 int // blocks of one factor that dropout leaves as they are
}

func (t boft) Key() string { return fmt.Sprint("boft ", t) }

// Apply implements [nn.Tuner]: x times P D Pᵀ, of the last factor first. Inputs are turned in float32 and rounded once.
func (t boft) Apply(o nn.Operands) *Node {
	r, s := o.Tensors[0], o.Tensors[1]
	all := Reshape(r, t.factors*t.blocks, t.size, t.size)
	turns := cayley(MulScalar(Sub(all, TransposeAllAxes(all, 0, 2, 1)), 0.5))
	x := inFloat32(o.X)
	for i := t.factors - 1; i >= 0; i-- {
		own := SliceAxis(turns, 0, AxisRange(i*t.blocks, (i+1)*t.blocks))
		before := t.apart(x, i)
		x = t.together(t.drop(o, i, before, rotateBlocks(before, own)), i)
	}
	y := o.Product(ConvertDType(x, o.X.DType()))
	return o.WithBias(rescaled(y, Reshape(s, -1)))
}

// drop is after [B, S, in], but before in some blocks of one factor, each row of the batch drawing for itself which; in PEFT all rows
// of a forward pass share the draw.
func (t boft) drop(o nn.Operands, factor int, before, after *Node) *Node {
	if o.Draws == nil || t.still == 0 {
		return after
	}
	draws := o.Draws("blocks", t.blocks)
	less := LessThan(InsertAxes(draws, 1), InsertAxes(draws, 2))
	place := ReduceSum(inFloat32(less), 2) // how many draws are less than a block's
	still := LessThan(place, Scalar(place.Graph(), dtypes.Float32, t.still))
	chosen := Mod(o.Draws("factor", 1), Const(draws.Graph(), uint32(t.factors)))
	still = LogicalAnd(still, Equal(BroadcastToDims(chosen, still.Shape().Dimensions...), Const(draws.Graph(), uint32(factor))))
	d := before.Shape().Dimensions
	split := func(x *Node) *Node { return Reshape(x, d[0], d[1], t.blocks, t.size) }
	still = BroadcastToDims(Reshape(still, d[0], 1, t.blocks, 1), d[0], d[1], t.blocks, t.size)
	return Reshape(Where(still, split(before), split(after)), d...)
}

// together puts the features of x [B, S, in] in the order of the butterfly of factor i: of each run of blocks, the halves with even
// numbers before those with odd ones. apart undoes it.
func (t boft) together(x *Node, i int) *Node { return t.shuffled(x, i, []int{1 << i, 2}) }
func (t boft) apart(x *Node, i int) *Node    { return t.shuffled(x, i, []int{2, 1 << i}) }

func (t boft) shuffled(x *Node, i int, order []int) *Node {
	if i == 0 {
		return x
	}
	d := x.Shape().Dimensions
	y := Reshape(x, d[0]*d[1], t.blocks>>i, order[0], order[1], t.size/2)
	return Reshape(TransposeAllAxes(y, 0, 1, 3, 2, 4), d...)
}

// order is where each feature comes from in together.
func (t boft) order(i int) []int {
	half, units := t.size/2, 1<<(i+1)
	order := make([]int, 0, t.blocks*t.size)
	for run := range t.blocks >> i {
		for unit := range units {
			from := 2*unit%units + 2*unit/units
			for k := range half {
				order = append(order, (run*units+from)*half+k)
			}
		}
	}
	return order
}

// host are the blocks of each factor.
func (t boft) host(values []float32) (factors [][]*mat.Dense) {
	n := t.size * t.size
	for range t.factors {
		var blocks []*mat.Dense
		for range t.blocks {
			q := mat.NewDense(t.size, t.size, nil)
			for i := range t.size {
				for j := range t.size {
					q.Set(i, j, 0.5*(float64(values[i*t.size+j])-float64(values[j*t.size+i])))
				}
			}
			blocks, values = append(blocks, hostCayley(q)), values[n:]
		}
		factors = append(factors, blocks)
	}
	return factors
}

// merge turns the rows of a weight, as column vectors, by P D Pᵀ of the first factor first, and scales them.
func (t boft) merge(w []float32, v [][]float32) {
	in := t.blocks * t.size
	for i, blocks := range t.host(v[0]) {
		t.turn(w, i, blocks)
	}
	for i := range w {
		w[i] *= v[1][i/in]
	}
}

func (t boft) unmerge(w []float32, v [][]float32) {
	in := t.blocks * t.size
	for i := range w {
		w[i] /= v[1][i/in]
	}
	factors := t.host(v[0])
	for i := len(factors) - 1; i >= 0; i-- {
		for k, b := range factors[i] {
			factors[i][k] = mat.DenseCopyOf(b.T())
		}
		t.turn(w, i, factors[i])
	}
}

func (t boft) turn(w []float32, i int, blocks []*mat.Dense) {
	in, order := t.blocks*t.size, t.order(i)
	row := make([]float32, in)
	if i > 0 {
		for o := 0; o < len(w); o += in { // Pᵀ
			copy(row, w[o:o+in])
			for k, from := range order {
				w[o+from] = row[k]
			}
		}
	}
	rotatesColumns(w, in, blocks)
	if i > 0 {
		for o := 0; o < len(w); o += in { // P
			copy(row, w[o:o+in])
			for k, from := range order {
				w[o+k] = row[from]
			}
		}
	}
}
