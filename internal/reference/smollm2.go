package reference

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// SmolLM2 is testdata/smollm2: SmolLM2-135M-Instruct, dequantized to float32 from its GGUF.
type SmolLM2 struct {
	GGUF string `json:"-"` // the file, which is there

	Chats      []Chat     `json:"chats"`
	Perplexity Perplexity `json:"perplexity"`
	LoRA       LoRACurves `json:"lora"`
}

// Chat is a prompt and its greedy continuation.
type Chat struct {
	Messages   []map[string]any `json:"messages"`
	Text       string           `json:"text"`        // rendered, with the generation prompt
	IDs        []int            `json:"ids"`         // of Text
	GreedyIDs  []int            `json:"greedy_ids"`  // 48, or fewer that end with the end-of-turn token
	GreedyText string           `json:"greedy_text"` // special tokens included

	// SmallestMargin is the least difference between the two largest logits on the way: rounding below it cannot
	// change the continuation.
	SmallestMargin float64 `json:"smallest_margin"`

	FirstToken struct {
		IDs       []int     `json:"ids"`    // the 8 likeliest tokens after the prompt, likeliest first
		Logits    []float64 `json:"logits"` // theirs
		LogSumExp float64   `json:"logsumexp"`
	} `json:"first_token"`
}

// Perplexity is the negative log-likelihood, in nats, of a text without any special token.
type Perplexity struct {
	Text       string    `json:"text"`
	IDs        []int     `json:"ids"`
	NLLSum     float64   `json:"nll_sum"`
	Count      int       `json:"count"` // len(IDs) - 1
	Perplexity float64   `json:"perplexity"`
	TokenNLL   []float64 `json:"token_nll"` // of IDs[1:]
}

// LoRACurves are two LoRA trainings on the same rows in the same order, AdamW with a constant learning rate.
type LoRACurves struct {
	R           int      `json:"r"`
	LoraAlpha   int      `json:"lora_alpha"`
	ModuleOrder []string `json:"module_order"` // linears of a layer; linear m of the model is layer m/7, name m%7
	LR          float64  `json:"lr"`
	MaxGradNorm float64  `json:"max_grad_norm"`
	BatchSize   int      `json:"batch_size"`
	Epochs      int      `json:"epochs"`
	MaxLength   int      `json:"max_length"`
	PadID       int      `json:"pad_id"`

	// Rows are token ids, labels are the same; TrainRows and HeldOutRows are [from, to) of them. Step s trains on rows
	// BatchSize*(s%steps per epoch) and following, padded on the right to the longest.
	Rows        [][]int `json:"rows"`
	TrainRows   [2]int  `json:"train_rows"`
	HeldOutRows [2]int  `json:"held_out_rows"`

	InitialAFirstValues map[string][]float32 `json:"initial_a_first_values"` // linear → first values of InitialA
	Runs                map[string]LoRARun   `json:"runs"`                   // "fp32", and "nf4" after a round trip of the base
}

// LoRARun is one training of [LoRACurves].
type LoRARun struct {
	Loss              []float64 `json:"loss"`      // mean over the step's label tokens, before the update
	GradNorm          []float64 `json:"grad_norm"` // before the clip
	LabelTokens       []int     `json:"label_tokens"`
	HeldOutLossBefore float64   `json:"held_out_loss_before"`
	HeldOutLossAfter  float64   `json:"held_out_loss_after"`
	FinalBNorm        []float64 `json:"final_b_norm"`        // ||B|| of each linear at the end
	FinalAChangeNorm  []float64 `json:"final_a_change_norm"` // ||A - initial A||
}

// LoadSmolLM2 reads testdata/smollm2; it skips the test where the model has not been fetched.
func LoadSmolLM2(t testing.TB) *SmolLM2 {
	t.Helper()
	dir := Dir("smollm2")
	s := &SmolLM2{GGUF: filepath.Join(dir, "..", "..", "..", "..", ".cache", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
	if _, err := os.Stat(s.GGUF); err != nil {
		t.Skip("SmolLM2 is not here: run scripts/fetch-smollm2.sh")
	}
	raw, err := os.ReadFile(filepath.Join(dir, "reference.json"))
	if err == nil {
		err = json.Unmarshal(raw, s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// InitialA is the A [r, width] that linear number module of [LoRACurves] starts from, flat; B starts from 0.
//
// Element e is u·(1/√width) with u = 2·(h>>40)/2²⁴ - 1 in float32 and h = splitmix64's output function of
// module·2³² + e, so that every language can make the same numbers.
func InitialA(module, r, width int) []float32 {
	bound := float32(1 / math.Sqrt(float64(width)))
	a := make([]float32, r*width)
	for e := range a {
		h := uint64(module)<<32 + uint64(e) + 0x9E3779B97F4A7C15
		h = (h ^ h>>30) * 0xBF58476D1CE4E5B9
		h = (h ^ h>>27) * 0x94D049BB133111EB
		h ^= h >> 31
		a[e] = (float32(h>>40)*0x1p-23 - 1) * bound
	}
	return a
}
