package models

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/internal/safetensors/floats"
	"github.com/loris-ml/loris/quant"
)

// storedAs is a copy of a fixture whose tensors have another dtype, and their values in it.
func storedAs(t *testing.T, fixture, dtype string) (dir string, values map[string][]float32) {
	t.Helper()
	set, err := safetensors.OpenDir(reference.Dir(fixture))
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	dir, values = t.TempDir(), map[string][]float32{}
	var all []safetensors.Tensor
	for i, name := range set.Names() {
		info, _ := set.Info(name)
		x, err := set.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		for j := range x {
			x[j] *= float32(1 + 0.01*math.Sin(float64(i+j))) // bits that no 16-bit format has
		}
		raw, err := floats.Encode(dtype, x)
		if err != nil {
			t.Fatal(err)
		}
		if err := floats.Decode(x, dtype, raw); err != nil {
			t.Fatal(err)
		}
		values[name] = x
		all = append(all, safetensors.Tensor{Name: name, DType: dtype, Shape: info.Shape, Data: raw})
	}
	config, err := os.ReadFile(filepath.Join(reference.Dir(fixture), "config.json"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644)
	}
	if err == nil {
		err = safetensors.Write(filepath.Join(dir, safetensors.SingleName), all, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir, values
}

// bytesOf is what lies on the device.
func bytesOf(t *testing.T, x *tensors.Tensor) (raw []byte) {
	t.Helper()
	if err := x.ConstBytes(func(b []byte) { raw = bytes.Clone(b) }); err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestEveryStoredDTypeBecomesItsValuesRoundedOnce(t *testing.T) {
	for _, fixture := range []string{"llama_a", "llama_b"} { // with and without head and biases
		for _, stored := range []string{"F64", "F32", "F16", "BF16"} {
			dir, values := storedAs(t, fixture, stored)
			for dtype, name := range map[DType]string{Float32: "F32", BFloat16: "BF16"} {
				t.Run(fmt.Sprint(fixture, stored, name), func(t *testing.T) {
					m := mustLoad(t, dir, Options{DType: dtype})
					want := func(names ...string) (raw []byte) {
						for _, n := range names {
							b, err := floats.Encode(name, values[n])
							if err != nil {
								t.Fatal(err)
							}
							raw = append(raw, b...)
						}
						return raw
					}
					if !bytes.Equal(m.run.Embed.Rows, want("model.embed_tokens.weight")) {
						t.Error("the embedding has other bytes")
					}
					if !bytes.Equal(bytesOf(t, m.run.Norm), want("model.norm.weight")) {
						t.Error("the norm has other bytes")
					}
					if !bytes.Equal(bytesOf(t, headOf(m)), want(map[bool]string{true: "lm_head.weight", false: "model.embed_tokens.weight"}[m.run.Head != nil])) {
						t.Error("the head has other bytes")
					}
					for i, w := range m.run.Layers {
						for j, slot := range w.Layout.Slots {
							var names []string
							for _, p := range slot.Parts {
								names = append(names, layerPrefix(i)+p.Name)
							}
							if !bytes.Equal(bytesOf(t, w.Tensors[j]), want(names...)) {
								t.Errorf("%v have other bytes", names)
							}
						}
					}
				})
			}
		}
	}
}

func TestEveryStoredDTypeIsQuantizedAsItsValues(t *testing.T) {
	nf4 := &quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true}
	for _, stored := range []string{"F64", "F32", "F16", "BF16"} {
		dir, values := storedAs(t, "llama_a", stored)
		pack := func(lin nn.Linear, layer int) ([]byte, *quant.QuantState) {
			codes, state, err := quant.Quantize4Bit(values[layerPrefix(layer)+lin.Name+".weight"], quant.NF4, 64, true)
			if err != nil {
				t.Fatal(err)
			}
			state.Shape = []int{lin.Out, lin.In}
			return codes, state
		}
		t.Run("packed "+stored, func(t *testing.T) {
			m := mustLoad(t, dir, Options{Quantization: nf4, KeepPacked: true})
			for i, w := range m.run.Layers {
				at := len(m.arch.tensors().Norms)
				for _, g := range m.arch.tensors().Groups {
					var rows []*quant.Packed
					for _, lin := range g {
						p, err := quant.NewPacked(pack(lin, i))
						if err != nil {
							t.Fatal(err)
						}
						rows = append(rows, p)
					}
					one, err := quant.Concat(rows...)
					if err != nil {
						t.Fatal(err)
					}
					for _, in := range one.Inputs() {
						if !bytes.Equal(bytesOf(t, w.Tensors[at]), in.Raw) {
							t.Errorf("layer %d: slot %d has other bytes", i, at)
						}
						at++
					}
				}
			}
		})
		t.Run("dequantized "+stored, func(t *testing.T) {
			m := mustLoad(t, dir, Options{Quantization: nf4})
			for i := range m.run.Layers {
				for _, lin := range m.arch.tensors().Linears() {
					want, err := quant.Dequantize4Bit(pack(lin, i))
					if err != nil {
						t.Fatal(err)
					}
					got, err := m.download(layerPrefix(i) + lin.Name + ".weight")
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(fileBytes(t, got), fileBytes(t, want)) {
						t.Errorf("layer %d: %s has other values", i, lin.Name)
					}
				}
			}
		})
	}
}

func fileBytes(t *testing.T, values []float32) []byte {
	t.Helper()
	raw, err := floats.Encode(fileDTypes[dtypes.Float32], values)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestRandomWeightsAreTheSameInPieces(t *testing.T) {
	const n = 3<<16 + 77
	whole := make([]float32, n)
	normals(whole, 0, 1, 2, 0.02)
	for _, step := range []int{1 << 16, 1000, 4097, 65535} {
		part := make([]float32, step)
		for at := 0; at < n; at += step {
			p := part[:min(step, n-at)]
			normals(p, at, 1, 2, 0.02)
			if !bytes.Equal(fileBytes(t, p), fileBytes(t, whole[at:at+len(p)])) {
				t.Fatalf("pieces of %d: other values from %d on", step, at)
			}
		}
	}
}

func headOf(m *CausalLM) *tensors.Tensor {
	if m.run.Head != nil {
		return m.run.Head
	}
	return m.run.Embed.Table
}
