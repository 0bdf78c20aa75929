package models

import (
	"context"
	"fmt"
	"log"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loris-ml/loris/quant"
)

// reported is the report on a model, whose layers' errors are checked against the model's own weights.
func reported(t *testing.T, m *CausalLM) *quant.Report {
	t.Helper()
	r, err := quant.NewReport(m)
	if err != nil {
		t.Fatal(err)
	}
	values := 0
	for _, k := range r.Kinds {
		values += k.Values
	}
	if int64(values) != m.NumParameters() {
		t.Errorf("the report has %d values, the model %d parameters", values, m.NumParameters())
	}
	return r
}

func TestReportOnALoadedModelHasEveryWeightAndTheErrorOfEachLayer(t *testing.T) {
	plain := filepath.Join("testdata", "bnb_none")
	original := mustLoad(t, plain, Options{})
	for name, q := range bnbConfigs {
		for _, packed := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " packed ", packed), func(t *testing.T) {
				m := mustLoad(t, plain, Options{Quantization: &q, KeepPacked: packed})
				r := reported(t, m)
				if len(r.Layers) != m.arch.dims().layers {
					t.Fatalf("%d layers in\n%s", len(r.Layers), r)
				}
				for i, l := range r.Layers {
					var squares, originals float64
					for name, shape := range tensorShapes(m.arch) {
						if !strings.HasPrefix(name, layerPrefix(i)) || !m.newReader().quantizesTensor(name, shape) {
							continue
						}
						is, err := m.Tensor(name)
						if err != nil {
							t.Fatal(err)
						}
						was, err := original.Tensor(name)
						if err != nil {
							t.Fatal(err)
						}
						for j, v := range was {
							squares += math.Pow(float64(is[j])-float64(v), 2)
							originals += math.Pow(float64(v), 2)
						}
					}
					if want := math.Sqrt(squares / originals); math.Abs(l.Error-want) > 1e-9*want || want == 0 {
						t.Errorf("%s has error %v, want %v", l.Layer, l.Error, want)
					}
				}
				if kept := strings.Contains(r.String(), " kept as float32"); kept == packed {
					t.Errorf("packed %v, but the report says\n%s", packed, r)
				}
			})
		}
	}
}

func TestReportOnACheckpointThatWasQuantizedBeforeKnowsNoError(t *testing.T) {
	for name := range bnbConfigs {
		dir, _ := loadBNB(t, name)
		r := reported(t, mustLoad(t, dir, Options{KeepPacked: true}))
		for _, l := range r.Layers {
			if !math.IsNaN(l.Error) || l.Weights == 0 {
				t.Errorf("%s: layer %+v", name, l)
			}
		}
	}
	if r := reported(t, mustLoad(t, filepath.Join("testdata", "bnb_none"), Options{})); len(r.Layers) != 0 || len(r.Kinds) != 1 {
		t.Errorf("a model that is not quantized has the report\n%s", r)
	}
}

func ExampleCausalLM_Weights() {
	model, err := FromPretrained(context.Background(), "testdata/bnb_none", Options{
		Quantization: &quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true},
		KeepPacked:   true,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	report, err := quant.NewReport(model)
	if err != nil {
		log.Fatal(err)
	}
	for _, l := range report.Layers {
		fmt.Printf("%s: %d weights quantized, error %.2f\n", l.Layer, l.Weights, l.Error)
	}
	// Output:
	// model.layers.0: 7 weights quantized, error 0.09
	// model.layers.1: 7 weights quantized, error 0.09
}
