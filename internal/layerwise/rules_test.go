package layerwise

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
)

// ruleRuns is testdata/rules.json, written by rules.py.
type ruleRuns struct {
	Steps       int
	Shapes      [][]int
	Rows        [][]int
	LR          float64
	Betas       [2]float64
	Eps         float64
	WeightDecay float64 `json:"weight_decay"`
	Runs        map[string][]struct {
		Step   int
		Values [][]byte
	}
	LoRAPlus []struct {
		Name  string
		Shape []int
		Value []byte
	}
}

func readRules(t *testing.T) (r ruleRuns) {
	t.Helper()
	text, err := os.ReadFile("testdata/rules.json")
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// session is bare with joined tensors. A run's name is the optimizer's and its arguments; muon_float32 is muon.
func (r *ruleRuns) session(t *testing.T, d *backend.Device, run string) *Session {
	t.Helper()
	name, args, _ := strings.Cut(strings.Replace(run, "_float32", "", 1), " ")
	var initial [][]float32
	for i, s := range r.Shapes {
		initial = append(initial, reference.Normal(uint64(1+i), size(s), 0.1))
	}
	o := training.SessionOptions{Optim: name, OptimArgs: args, AdamBeta1: r.Betas[0], AdamBeta2: r.Betas[1], AdamEpsilon: r.Eps, WeightDecay: r.WeightDecay}
	s := bare(t, d, o, initial, r.Shapes)
	g := s.groups[0]
	for i := range g.params {
		g.params[i].rows = r.Rows[i]
	}
	g.state = nil // the shapes of Adafactor's depend on rows
	if err := s.optim.start(g, d); err != nil {
		t.Fatal(err)
	}
	return s
}

func size(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

func (r *ruleRuns) step(t *testing.T, s *Session, number int) {
	t.Helper()
	var gradients [][]float32
	for i, shape := range r.Shapes {
		gradients = append(gradients, gradient(i, number, size(shape)))
	}
	s.take(t, r.LR, gradients...)
}

func TestRulesStepAsTorchAndTransformers(t *testing.T) {
	r := readRules(t)
	for _, d := range testDevices(t) {
		for run, snapshots := range r.Runs {
			limit := 2e-5
			if run == "muon" || run == "muon adjust_lr_fn=original" {
				limit = 5e-2 // torch iterates in bfloat16, which the coefficients amplify: its own float32 iterations are as far away
			}
			s, at := r.session(t, d, run), 0
			for _, want := range snapshots {
				for ; at < want.Step; at++ {
					r.step(t, s, at+1)
				}
				first := len(r.Shapes) - len(want.Values)
				if want.Step == 1 {
					first = 1
				}
				held := s.held(t)
				for k, raw := range want.Values {
					i := first + k
					initial := reference.Normal(uint64(1+i), size(r.Shapes[i]), 0.1)
					e := distance(float32s(held[fmt.Sprintf("%d.value", i)]), float32s(raw), initial)
					if !(e < limit) {
						t.Errorf("%s %s, step %d, parameter %d: ‖a-b‖/‖b‖ of the way is %.2g, want below %.2g", d.Kind, run, at, i, e, limit)
					}
				}
			}
		}
	}
}

func TestStatesOfEveryRuleGoOnBitForBit(t *testing.T) {
	r := readRules(t)
	for _, d := range testDevices(t) {
		for _, run := range []string{"sgd", "sgd momentum=0.9,dampening=0.5", "adafactor", "muon"} {
			straight, dir := r.session(t, d, run), t.TempDir()
			for step := range 5 {
				if step == 3 {
					if err := straight.SaveState(dir); err != nil {
						t.Fatal(err)
					}
				}
				r.step(t, straight, step+1)
			}
			resumed := r.session(t, d, run)
			if err := resumed.LoadState(dir); err != nil {
				t.Fatal(err)
			}
			r.step(t, resumed, 4)
			r.step(t, resumed, 5)
			same(t, fmt.Sprint(d.Kind, " ", run), resumed.held(t), straight.held(t))
		}
	}
}

func TestLoRAPlusStepsAsPEFT(t *testing.T) {
	r := readRules(t)
	for _, d := range testDevices(t) {
		var initial [][]float32
		var shapes [][]int
		for i, p := range r.LoRAPlus {
			initial, shapes = append(initial, reference.Normal(uint64(1+i), size(p.Shape), 0.1)), append(shapes, p.Shape)
		}
		s := bare(t, d, training.SessionOptions{AdamBeta1: r.Betas[0], AdamBeta2: r.Betas[1], AdamEpsilon: r.Eps, WeightDecay: r.WeightDecay, LoRAPlusLRRatio: 16, LoRAPlusEmbedding: 1.0 / 8}, initial, shapes)
		for i, p := range r.LoRAPlus {
			s.groups[0].params[i].plus = strings.Contains(p.Name, "lora_B")
			s.groups[0].params[i].embedding = strings.Contains(p.Name, "lora_embedding_")
		}
		for step := range r.Steps {
			var gradients [][]float32
			for i := range shapes {
				gradients = append(gradients, gradient(i, step+1, size(shapes[i])))
			}
			s.take(t, r.LR, gradients...)
		}
		for i, p := range r.LoRAPlus {
			if e := distance(float32s(s.held(t)[fmt.Sprintf("%d.value", i)]), float32s(p.Value), initial[i]); !(e < 5e-6) {
				t.Errorf("%s %s: ‖a-b‖/‖b‖ of the way is %.2g", d.Kind, p.Name, e)
			}
		}
	}
}

// What each rule keeps beside a parameter, in bytes.
func TestRulesKeepWhatTheyNeed(t *testing.T) {
	r := readRules(t)
	d := testDevices(t)[0]
	a, b, c := size(r.Shapes[0]), size(r.Shapes[1]), size(r.Shapes[2])
	for run, want := range map[string]int{
		"sgd": 0, "sgd momentum=0.9": 4 * (a + b + c), "adafactor": 4 * (29 + 2*17 + 5 + 33 + c), "muon": 4 * (a + b + 2*c),
	} {
		s, got := r.session(t, d, run), 0
		for _, at := range s.groups[0].state {
			got += int((*tensors.Tensor)(at).Size()) * 4
		}
		if got != want {
			t.Errorf("%s: %d bytes, want %d", run, got, want)
		}
	}
}
