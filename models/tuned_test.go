package models

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/quant"
)

// bothEnds is a tuner of vectors that multiply what goes into a linear, and what comes out of it.
type bothEnds struct{}

func (bothEnds) Key() string { return "both ends" }

func (bothEnds) Apply(o nn.Operands) *Node {
	x := Mul(o.X, ExpandLeftToRank(ConvertDType(o.Tensors[0], o.X.DType()), 3))
	y := Add(o.Product(o.X), o.Product(x))
	return o.WithBias(Mul(y, ExpandLeftToRank(ConvertDType(Mul(o.Tensors[1], o.Tensors[2]), y.DType()), 3)))
}

// scaledEnds puts such adapters on every other linear; a factor on all outputs is frozen and shared by those of one size.
func scaledEnds(m *CausalLM) (all []LoRA) {
	frozen := map[int][]float32{}
	for i, l := range m.Linears() {
		if l.Head || i%2 == 1 {
			continue
		}
		if frozen[l.Out] == nil {
			frozen[l.Out] = reference.Normal(3, l.Out, 0.2)
			for j := range frozen[l.Out] {
				frozen[l.Out][j]++
			}
		}
		all = append(all, LoRA{Path: l.Path, Tuned: &Tuned{Tuner: bothEnds{}, Tensors: []TunedTensor{
			{Name: "in", Shape: []int{l.In}, Values: reference.Normal(uint64(i), l.In, 0.3)},
			{Name: "out", Shape: []int{l.Out}, Values: reference.Normal(uint64(1000+i), l.Out, 1)},
			{Name: "all", Shape: []int{l.Out}, Values: frozen[l.Out], Frozen: true},
		}}})
	}
	return all
}

// tunedStep returns the mean loss of a batch, and the adapters' values after a step of plain descent.
func tunedStep(t *testing.T, m *CausalLM, a Adapters, b familyBatch) (float64, map[string][]float32) {
	t.Helper()
	s, err := m.SessionWith(a, training.SessionOptions{Optim: "sgd"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	batch := &training.Batch{Rows: b.Rows, Length: len(b.IDs) / b.Rows, IDs: b.IDs, Labels: b.Labels, Positions: b.Positions, Segments: b.Segments}
	for _, l := range b.Labels {
		if l != -100 {
			batch.NumLabels++
		}
	}
	st, err := s.MicroStep(context.Background(), batch)
	if err == nil {
		_, err = s.Apply(context.Background(), training.ApplyOptions{LearningRate: 1, NumItems: float64(batch.NumLabels)})
	}
	if err != nil {
		t.Fatal(err)
	}
	values, err := a.Values()
	if err != nil {
		t.Fatal(err)
	}
	after := map[string][]float32{}
	for path, l := range values {
		for _, n := range l.Tuned.Tensors {
			if !n.Frozen {
				after[path+"."+n.Name] = n.Values
			}
		}
	}
	return st.LossSum / float64(st.Labels), after
}

// Adapters that are no LoRAs take the plain form of their linears within the fused form of the others, forwards and backwards, over
// quantized weights and while text is generated, in every family.
func TestTunedLinearsServeEveryFamilyInBothForms(t *testing.T) {
	nf4 := &quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true}
	reference.OnBackends(t, func(t *testing.T, backend string) {
		eachFamily(t, backend, []string{"phi3_longrope"}, func(t *testing.T, f *family) {
			var losses []float64
			var all []map[string][]float32
			var texts []string
			for _, form := range []nn.Form{nn.FormPlain, nn.FormFused} {
				m := mustLoad(t, f.dir, Options{Backend: backend, DType: Float32, Quantization: nf4, KeepPacked: true})
				m.run.Shape.Form = form
				a, err := m.NewAdapters(scaledEnds(m))
				if err != nil {
					t.Fatal(err)
				}
				out, err := m.GenerateBatchIDs(context.Background(), a, [][]int{f.Prompt, f.Prompt[:3]}, GenerationConfig{MaxNewTokens: 6})
				if err != nil {
					t.Fatal(err)
				}
				loss, after := tunedStep(t, m, a, f.Packed)
				losses, all, texts = append(losses, loss), append(all, after), append(texts, fmt.Sprint(out))
				if err := a.Close(); err != nil {
					t.Error(err)
				}
			}
			reference.CheckCurve(t, "loss", losses[1:], losses[:1], 3e-5)
			for name, v := range all[1] {
				reference.CheckClose(t, name, v, all[0][name], 1e-4)
			}
			if texts[0] != texts[1] {
				t.Errorf("fused %s, plain %s", texts[1], texts[0])
			}
		})
	})
}

func TestTunedAdaptersThatFitNothingAreRefused(t *testing.T) {
	m := mustLoad(t, "testdata/bnb_none", Options{DType: Float32})
	whole := scaledEnds(m)[0]
	for want, change := range map[string]func(l *LoRA){
		"has 0 values, want [":          func(l *LoRA) { l.Tuned.Tensors[0].Values = nil },
		"stands in place of a LoRA":     func(l *LoRA) { l.Shift = []float32{1} },
		"there are LoRAs alone":         func(l *LoRA) { l.Path = HeadPath },
		"has no such linear":            func(l *LoRA) { l.Path = "model.layers.0.self_attn.z_proj" },
		"adapters of A and B alone, of": func(l *LoRA) {},
	} {
		l, tuned := whole, *whole.Tuned
		tuned.Tensors = slices.Clone(tuned.Tensors)
		l.Tuned = &tuned
		change(&l)
		a, err := m.NewAdapters([]LoRA{l})
		if strings.HasPrefix(want, "adapters of") {
			if err != nil {
				t.Fatal(err)
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
			l.Scaling = 1
			_, err = m.NewRowAdapters([]LoRA{l})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}
