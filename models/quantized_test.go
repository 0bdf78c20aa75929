package models

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/quant"
)

// bnbReference is what transformers computed with a folder of testdata; see scripts/reference/make_bnb_fixtures.py.
type bnbReference struct {
	IDs    [][]int       `json:"ids"`
	Logits [][][]float32 `json:"logits"`
	Greedy []int         `json:"greedy"`
}

func loadBNB(t *testing.T, name string) (dir string, ref bnbReference) {
	t.Helper()
	dir = filepath.Join("testdata", "bnb_"+name)
	raw, err := os.ReadFile(filepath.Join(dir, "reference.json"))
	if err == nil {
		err = json.Unmarshal(raw, &ref)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir, ref
}

// bnbConfigs are those of make_bnb_fixtures.py.
var bnbConfigs = map[string]quant.BitsAndBytesConfig{
	"fp4":  {LoadIn4Bit: true, LLMInt8SkipModules: []string{"lm_head", "down_proj"}},
	"nf4":  {LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true, BNB4BitQuantStorage: "bfloat16"},
	"int8": {LoadIn8Bit: true},
}

func flatLogits(l [][][]float32) []float32 { return slices.Concat(slices.Concat(l...)...) }

func TestQuantizedCheckpointsComputeWhatTheyDoInTransformers(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		for name := range bnbConfigs {
			for _, packed := range []bool{false, true} {
				t.Run(fmt.Sprint(name, " packed ", packed), func(t *testing.T) {
					dir, ref := loadBNB(t, name)
					m := mustLoad(t, dir, Options{Backend: backend, DType: Float32, KeepPacked: packed})
					if q := m.Options().Quantization; q == nil || q.LoadIn8Bit != bnbConfigs[name].LoadIn8Bit {
						t.Errorf("the options say %+v of the quantization", q)
					}
					logits, err := m.Logits(context.Background(), ref.IDs, nil)
					if err != nil {
						t.Fatal(err)
					}
					limit := 1e-5
					if (packed || strings.HasPrefix(backend, "xla:cuda")) && name != "int8" {
						limit = 1e-2 // decoded to float32, not to the checkpoint's bfloat16
					}
					reference.CheckClose(t, "logits", flatLogits(logits), flatLogits(ref.Logits), limit)
					if packed {
						return
					}
					got, err := m.GenerateIDs(context.Background(), nil, ref.IDs[0], GenerationConfig{MaxNewTokens: len(ref.Greedy)})
					if err != nil || !slices.Equal(got, ref.Greedy) {
						t.Errorf("continued with %v (%v), want %v", got, err, ref.Greedy)
					}
				})
			}
		}
	})
}

// sameCheckpoint compares weights byte for byte, and the quantization that the configs say.
func sameCheckpoint(t *testing.T, got, want string) {
	t.Helper()
	file := func(dir, name string) []byte {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	if a, b := file(got, safetensors.SingleName), file(want, safetensors.SingleName); !bytes.Equal(a, b) {
		t.Errorf("model.safetensors has other bytes: %s", difference(t, got, want))
	}
	quantization := func(dir string) (q any) {
		var c struct {
			Q any `json:"quantization_config"`
		}
		if err := json.Unmarshal(file(dir, "config.json"), &c); err != nil {
			t.Fatal(err)
		}
		return c.Q
	}
	if a, b := quantization(got), quantization(want); !reflect.DeepEqual(a, b) {
		t.Errorf("quantization_config is %v, want %v", a, b)
	}
}

// difference names the tensors that differ.
func difference(t *testing.T, got, want string) string {
	t.Helper()
	a, err := safetensors.OpenDir(got)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := safetensors.OpenDir(want)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var names []string
	for _, n := range append(a.Names(), b.Names()...) {
		x, _ := a.Read(n)
		y, _ := b.Read(n)
		ia, _ := a.Info(n)
		ib, _ := b.Info(n)
		if !bytes.Equal(x, y) || ia.DType != ib.DType || !slices.Equal(ia.Shape, ib.Shape) {
			names = append(names, n)
		}
	}
	return strings.Join(names, ", ")
}

func TestQuantizedCheckpointsComeBackByteForByte(t *testing.T) {
	dirs := []string{filepath.Join(reference.Dir("llama_a"), "model_nf4")}
	for name := range bnbConfigs {
		dirs = append(dirs, filepath.Join("testdata", "bnb_"+name))
	}
	for _, dir := range dirs {
		for _, packed := range []bool{false, true} {
			t.Run(fmt.Sprint(filepath.Base(dir), " packed ", packed), func(t *testing.T) {
				m := mustLoad(t, dir, Options{KeepPacked: packed})
				format := BFloat16
				if strings.Contains(dir, "llama_a") {
					format = Float32
				}
				to := t.TempDir()
				if err := m.SaveAs(to, format); err != nil {
					t.Fatal(err)
				}
				sameCheckpoint(t, to, dir)
			})
		}
	}
}

func TestModelsQuantizedHereAreSavedAsTransformersSavesThem(t *testing.T) {
	for name, q := range bnbConfigs {
		t.Run(name, func(t *testing.T) {
			m := mustLoad(t, filepath.Join("testdata", "bnb_none"), Options{Quantization: &q})
			to := t.TempDir()
			if err := m.SaveAs(to, BFloat16); err != nil {
				t.Fatal(err)
			}
			sameCheckpoint(t, to, filepath.Join("testdata", "bnb_"+name))
		})
	}
}

func TestDequantizedCopyComputesTheSame(t *testing.T) {
	for name := range bnbConfigs {
		dir, ref := loadBNB(t, name)
		to := t.TempDir()
		if err := mustLoad(t, dir, Options{KeepPacked: true}).SaveWith(to, SaveOptions{DType: Float32, Dequantize: true}); err != nil {
			t.Fatal(err)
		}
		m := mustLoad(t, to, Options{})
		if m.Options().Quantization != nil {
			t.Errorf("%s: the copy says that it is quantized", name)
		}
		logits, err := m.Logits(context.Background(), ref.IDs, nil)
		if err != nil {
			t.Fatal(err)
		}
		reference.CheckClose(t, name, flatLogits(logits), flatLogits(ref.Logits), 1e-5)
	}
}

func TestOptionsThatContradictAQuantizedCheckpointAreNamed(t *testing.T) {
	nf4, fp4 := bnbConfigs["nf4"], bnbConfigs["fp4"]
	single := nf4
	single.BNB4BitUseDoubleQuant = false
	skips := nf4
	skips.LLMInt8SkipModules = []string{"lm_head", "o_proj"}
	int8 := bnbConfigs["int8"]
	for want, o := range map[string]Options{
		"bnb_4bit_quant_type is fp4":             {Quantization: &quant.BitsAndBytesConfig{LoadIn4Bit: true}},
		"bnb_4bit_use_double_quant is false":     {Quantization: &single},
		"load_in_4bit is false":                  {Quantization: &int8},
		`llm_int8_skip_modules is ["lm_head" "o`: {Quantization: &skips},
		"Options.Trainable":                      {Trainable: true},
	} {
		_, err := FromPretrained(context.Background(), filepath.Join("testdata", "bnb_nf4"), o)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "bnb_nf4") {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
	fp4.BNB4BitComputeDType = "bfloat16"
	m := mustLoad(t, filepath.Join("testdata", "bnb_fp4"), Options{Quantization: &fp4})
	if got := m.Options().Quantization.BNB4BitComputeDType; got != "bfloat16" {
		t.Errorf("the compute dtype is %q, want that of the options", got)
	}
}

func TestSavedComputeDTypeIsWhatWasComputedIn(t *testing.T) {
	q := quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4} // says nothing of it
	m := mustLoad(t, filepath.Join("testdata", "bnb_none"), Options{Quantization: &q, DType: BFloat16})
	to := t.TempDir()
	if err := m.SavePretrained(to); err != nil {
		t.Fatal(err)
	}
	if got := mustLoad(t, to, Options{}).Options().Quantization.BNB4BitComputeDType; got != "bfloat16" {
		t.Errorf("bnb_4bit_compute_dtype of a model that computes in bfloat16 comes back as %q", got)
	}
}

func TestDamagedQuantizedCheckpointsAreErrorsThatNameTheSpot(t *testing.T) {
	const gate = "model.layers.0.mlp.gate_proj.weight"
	for want, change := range map[string]func(map[string]safetensors.Tensor){
		gate + ".absmax is missing": func(all map[string]safetensors.Tensor) { delete(all, gate+".absmax") },
		"neither " + gate + ".quant_state.bitsandbytes__nf4 nor": func(all map[string]safetensors.Tensor) {
			delete(all, gate+".quant_state.bitsandbytes__fp4")
		},
		"want [52 36] as the model's config says": func(all map[string]safetensors.Tensor) {
			for _, suffix := range []string{"", ".absmax", ".quant_map", ".quant_state.bitsandbytes__fp4"} {
				x := all["model.layers.0.self_attn.q_proj.weight"+suffix]
				x.Name = gate + suffix
				all[x.Name] = x
			}
		},
	} {
		dir := rewritten(t, filepath.Join("testdata", "bnb_fp4"), change)
		if _, err := FromPretrained(context.Background(), dir, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}

// rewritten is a copy of a checkpoint with its tensors changed.
func rewritten(t *testing.T, from string, change func(all map[string]safetensors.Tensor)) (dir string) {
	t.Helper()
	set, err := safetensors.OpenDir(from)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	all := map[string]safetensors.Tensor{}
	for _, n := range set.Names() {
		info, _ := set.Info(n)
		raw, err := set.Read(n)
		if err != nil {
			t.Fatal(err)
		}
		all[n] = safetensors.Tensor{Name: n, DType: info.DType, Shape: info.Shape, Data: raw}
	}
	change(all)
	dir = t.TempDir()
	config, err := os.ReadFile(filepath.Join(from, "config.json"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644)
	}
	if err == nil {
		err = safetensors.Write(filepath.Join(dir, safetensors.SingleName), slices.Collect(maps.Values(all)), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestWeightsThatAreNotFiniteAreRefusedByName(t *testing.T) {
	const up = "model.layers.1.mlp.up_proj.weight"
	for name, q := range bnbConfigs {
		for value, bits := range map[string]uint16{"NaN": 0x7fc0, "+Inf": 0x7f80, "-Inf": 0xff80} {
			dir := rewritten(t, filepath.Join("testdata", "bnb_none"), func(all map[string]safetensors.Tensor) {
				binary.LittleEndian.PutUint16(all[up].Data[2*77:], bits)
			})
			_, err := FromPretrained(context.Background(), dir, Options{Quantization: &q})
			for _, want := range []string{dir, fmt.Sprintf("tensor %q", up), "value 77 of", "is " + value} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: got error %v, want one with %q", name, err, want)
				}
			}
		}
	}
}

func TestForeignQuantizationsAreRefused(t *testing.T) {
	for want, q := range map[string]any{
		`quant_method "gptq"`:       map[string]any{"quant_method": "gptq", "bits": 4},
		"neither load_in_4bit":      map[string]any{"quant_method": "bitsandbytes"},
		"bnb_4bit_quant_type":       map[string]any{"load_in_4bit": true, "bnb_4bit_quant_type": "nf5"},
		"bitsandbytes' checkpoints": map[string]any{"load_in_4bit": "yes"},
	} {
		dir := copyOf(t, "llama_a")
		edit("quantization_config", q)(t, dir)
		if _, err := FromPretrained(context.Background(), dir, Options{}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "config.json") {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}
