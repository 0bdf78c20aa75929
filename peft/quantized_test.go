package peft

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/quant"
)

// quantizedBases are the formats that bases may have beside NF4, which has bitsandbytes' own curves.
var quantizedBases = map[string]quant.BitsAndBytesConfig{
	"int8":       {LoadIn8Bit: true},
	"fp4":        {LoadIn4Bit: true, BNB4BitQuantType: quant.FP4},
	"fp4 double": {LoadIn4Bit: true, BNB4BitQuantType: quant.FP4, BNB4BitUseDoubleQuant: true},
}

// From loading to merging, on every format: what training over it learns is what a float64 model with the decoded
// weights and the adapters computes, and so is what the merged folder does.
func TestLoRAOverQuantizedBasesIsTheFloat64Model(t *testing.T) {
	ctx := context.Background()
	ids := [][]int{{1, 5, 61, 33, 9, 12, 47, 20, 3, 8, 55}}
	reference.OnBackends(t, func(t *testing.T, backend string) {
		for name, q := range quantizedBases {
			for _, packed := range []bool{false, true} {
				if !packed && backend != "" {
					continue // of dense weights, as others test
				}
				if backend != "" && name == "fp4" && os.Getenv("LORIS_TEST_LONG") == "" {
					continue // it takes its time to compile, and has nothing that "fp4 double" has not
				}
				t.Run(fmt.Sprint(name, " packed ", packed), func(t *testing.T) {
					p := freshOver(t, models.Options{Backend: backend, DType: models.Float32, Quantization: &q, KeepPacked: packed})
					before, after := teach(t, p, ids[0])
					if after > 0.7*before {
						t.Errorf("the loss went from %v to %v", before, after)
					}
					logits, err := p.Logits(ctx, ids, nil)
					if err != nil {
						t.Fatal(err)
					}
					want := newFloat64Llama(t, p).logits(ids[0])
					reference.CheckClose(t, "logits", flat(logits[0]), want, 1e-5)
					dir := t.TempDir()
					if err := p.SaveMerged(dir, MergeOptions{DType: models.Float32}); err != nil {
						t.Fatal(err)
					}
					merged := loadTiny(t, dir, models.Options{Backend: backend, DType: models.Float32})
					if logits, err = merged.Logits(ctx, ids, nil); err != nil {
						t.Fatal(err)
					}
					reference.CheckClose(t, "merged logits", flat(logits[0]), want, 1e-5)
					again := t.TempDir()
					if err := p.SaveMerged(again, MergeOptions{Requantize: true}); err != nil {
						t.Fatal(err)
					}
					lossy := loadTiny(t, again, models.Options{Backend: backend, DType: models.Float32})
					if got := lossy.Options().Quantization; got == nil || got.LoadIn8Bit != q.LoadIn8Bit || q.LoadIn4Bit && got.QuantType() != q.QuantType() {
						t.Fatalf("the base was %+v, the merged folder is %+v", q, got)
					}
					if logits, err = lossy.Logits(ctx, ids, nil); err != nil {
						t.Fatal(err)
					}
					if e := reference.RelativeError(flat(logits[0]), want); e == 0 || e > 0.5 {
						t.Errorf("quantized again, the logits are %v off", e)
					}
				})
			}
		}
	})
}

func loadTiny(t *testing.T, dir string, o models.Options) *models.CausalLM {
	t.Helper()
	m, err := models.FromPretrained(context.Background(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// freshOver puts new adapters on all linears of the tiny bfloat16 checkpoint.
func freshOver(t *testing.T, o models.Options) *PeftModel {
	t.Helper()
	m := loadTiny(t, filepath.Join("..", "models", "testdata", "bnb_none"), o)
	p, err := GetPeftModel(m, LoraConfig{R: 3, LoraAlpha: 5, TargetModules: AllLinear}, Seed(7))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// teach trains the adapters to repeat ids and returns the loss of the first and the last step.
func teach(t *testing.T, p *PeftModel, ids []int) (first, last float64) {
	t.Helper()
	ctx := context.Background()
	s, err := p.NewSession(training.SessionOptions{AdamBeta1: 0.9, AdamBeta2: 0.999, AdamEpsilon: 1e-8})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := &training.Batch{Rows: 1, Length: len(ids), NumLabels: len(ids) - 1, NumTokens: len(ids)}
	for i, id := range ids {
		label := int32(-100)
		if i+1 < len(ids) {
			label = int32(ids[i+1])
		}
		b.IDs, b.Labels, b.Segments = append(b.IDs, int32(id)), append(b.Labels, label), append(b.Segments, 1)
	}
	for i := range 8 {
		st, err := s.MicroStep(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		if last = st.LossSum / float64(b.NumLabels); i == 0 {
			first = last
		}
		if _, err := s.Apply(ctx, training.ApplyOptions{LearningRate: 2e-2, NumItems: float64(b.NumLabels)}); err != nil {
			t.Fatal(err)
		}
	}
	return first, last
}

func flat(rows [][]float32) (all []float32) {
	for _, r := range rows {
		all = append(all, r...)
	}
	return all
}

// float64Llama computes a Llama with adapters from its formulas (arXiv:2302.13971), in float64.
type float64Llama struct {
	c      *models.LlamaConfig
	weight func(name string) []float64 // as the model's Tensor has it
	loras  map[string]lora64
}

type lora64 struct {
	a, b    []float64 // [r, in], [out, r]
	r       int
	scaling float64
}

func newFloat64Llama(t *testing.T, p *PeftModel) *float64Llama {
	t.Helper()
	values, err := p.first().weights.Values()
	if err != nil {
		t.Fatal(err)
	}
	f := &float64Llama{c: p.Base().Config().(*models.LlamaConfig), loras: map[string]lora64{}}
	for _, target := range p.Targets() {
		v := values[target.Path]
		f.loras[target.Path] = lora64{wide(v.A), wide(v.B), target.R, target.Scaling}
	}
	f.weight = func(name string) []float64 {
		x, err := p.Base().Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		return wide(x)
	}
	return f
}

func wide(x []float32) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}

// times is x Wᵀ for each row of x, with W [out, len(x[i])].
func times(x [][]float64, w []float64) [][]float64 {
	y := make([][]float64, len(x))
	for i, row := range x {
		y[i] = make([]float64, len(w)/len(row))
		for o := range y[i] {
			for j, v := range row {
				y[i][o] += v * w[o*len(row)+j]
			}
		}
	}
	return y
}

func (f *float64Llama) linear(x [][]float64, path string) [][]float64 {
	y := times(x, f.weight(path+".weight"))
	if l, ok := f.loras[path]; ok {
		for i, row := range times(times(x, l.a), l.b) {
			for o, v := range row {
				y[i][o] += l.scaling * v
			}
		}
	}
	return y
}

func (f *float64Llama) norm(x [][]float64, name string) [][]float64 {
	gain := f.weight(name + ".weight")
	y := make([][]float64, len(x))
	for i, row := range x {
		squares := 0.0
		for _, v := range row {
			squares += v * v
		}
		scale := 1 / math.Sqrt(squares/float64(len(row))+f.c.RMSNormEps)
		for j, v := range row {
			y[i] = append(y[i], v*scale*gain[j])
		}
	}
	return y
}

// rotate applies RoPE to every head of x [seq][heads·dim].
func (f *float64Llama) rotate(x [][]float64) {
	dim := f.c.HeadDim
	for pos, row := range x {
		for head := 0; head < len(row); head += dim {
			for j := range dim / 2 {
				angle := float64(pos) * math.Pow(10000, -2*float64(j)/float64(dim))
				re, im := row[head+j], row[head+dim/2+j]
				row[head+j] = re*math.Cos(angle) - im*math.Sin(angle)
				row[head+dim/2+j] = im*math.Cos(angle) + re*math.Sin(angle)
			}
		}
	}
}

func (f *float64Llama) attend(q, k, v [][]float64) [][]float64 {
	dim, group := f.c.HeadDim, f.c.NumAttentionHeads/f.c.NumKeyValueHeads
	y := make([][]float64, len(q))
	for i := range q {
		y[i] = make([]float64, len(q[i]))
		for h := range f.c.NumAttentionHeads {
			at, from := h*dim, h/group*dim
			p, sum := make([]float64, i+1), 0.0
			for j := range p {
				for d := range dim {
					p[j] += q[i][at+d] * k[j][from+d]
				}
				p[j] = math.Exp(p[j] / math.Sqrt(float64(dim)))
				sum += p[j]
			}
			for j := range p {
				for d := range dim {
					y[i][at+d] += p[j] / sum * v[j][from+d]
				}
			}
		}
	}
	return y
}

func add(x, y [][]float64) {
	for i := range x {
		for j := range x[i] {
			x[i][j] += y[i][j]
		}
	}
}

// logits returns [seq·vocab].
func (f *float64Llama) logits(ids []int) (all []float32) {
	embedding := f.weight("model.embed_tokens.weight")
	var x [][]float64
	for _, id := range ids {
		x = append(x, append([]float64{}, embedding[id*f.c.HiddenSize:][:f.c.HiddenSize]...))
	}
	for i := range f.c.NumHiddenLayers {
		layer := fmt.Sprintf("model.layers.%d.", i)
		h := f.norm(x, layer+"input_layernorm")
		q, k, v := f.linear(h, layer+"self_attn.q_proj"), f.linear(h, layer+"self_attn.k_proj"), f.linear(h, layer+"self_attn.v_proj")
		f.rotate(q)
		f.rotate(k)
		add(x, f.linear(f.attend(q, k, v), layer+"self_attn.o_proj"))
		h = f.norm(x, layer+"post_attention_layernorm")
		gate, up := f.linear(h, layer+"mlp.gate_proj"), f.linear(h, layer+"mlp.up_proj")
		for i := range gate {
			for j, g := range gate[i] {
				gate[i][j] = g / (1 + math.Exp(-g)) * up[i][j]
			}
		}
		add(x, f.linear(gate, layer+"mlp.down_proj"))
	}
	for _, row := range times(f.norm(x, "model.norm"), f.weight("lm_head.weight")) {
		for _, v := range row {
			all = append(all, float32(v))
		}
	}
	return all
}
