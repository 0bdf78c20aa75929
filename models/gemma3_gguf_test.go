package models

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/gguf"
)

const gemmaGGUF = "../.cache/gemma3/gemma-3-270m-q4_k_m.gguf"

// testdata/gemma3_270m.sha256 is what scripts/reference/make_gemma3_gguf_fixture.py wrote of gguf-py's decoding.
func TestGemma3TensorsDecodeAsGGUFPythonDecodesThem(t *testing.T) {
	if _, err := os.Stat(gemmaGGUF); err != nil || testing.Short() {
		t.Skip("no file: run scripts/fetch-gemma3.sh")
	}
	f, err := gguf.Open(gemmaGGUF)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list, err := os.Open("testdata/gemma3_270m.sha256")
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	n := 0
	for lines := bufio.NewScanner(list); lines.Scan(); n++ {
		want, name, _ := strings.Cut(lines.Text(), "  ")
		values, err := f.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		raw := make([]byte, 4*len(values))
		for i, v := range values {
			binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(v))
		}
		if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != want {
			info, _ := f.Tensor(name)
			t.Errorf("%s (%s) has other values", name, info.Type)
		}
	}
	if n != len(f.Tensors()) {
		t.Errorf("%d tensors were compared, the file has %d", n, len(f.Tensors()))
	}
}

func TestGemma3ConfigIsThatOfThePublishedModel(t *testing.T) {
	if _, err := os.Stat(gemmaGGUF); err != nil {
		t.Skip("no file: run scripts/fetch-gemma3.sh")
	}
	arch, src, err := open(gemmaGGUF)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	c := arch.(*Gemma3Config)
	got := fmt.Sprint(c.HiddenSize, c.NumHiddenLayers, c.HeadDim, c.NumKeyValueHeads, c.RMSNormEps, c.RopeTheta, c.RopeLocalBaseFreq, *c.SlidingWindow, c.QueryPreAttnScalar, c.TieWordEmbeddings, c.VocabSize)
	if want := "640 18 256 1 1e-06 1e+06 10000 512 256 true 262144"; got != want {
		t.Errorf("the file says %s, want %s", got, want)
	}
}

// testdata/gemma3_270m.json is what transformers computed from the same file.
func TestGemma3FromGGUFScoresAndContinuesAsTransformers(t *testing.T) {
	if _, err := os.Stat(gemmaGGUF); err != nil || testing.Short() {
		t.Skip("no file: run scripts/fetch-gemma3.sh")
	}
	if smolBackend() == "" && os.Getenv("LORIS_TEST_LONG") == "" {
		t.Skip("takes a minute on the Go backend: set LORIS_TEST_LONG or LORIS_TEST_BACKENDS")
	}
	var ref struct {
		NLL       float64
		IDs       []int
		Continued []struct {
			Text        string
			IDs, Greedy []int
			Margins     []float64
		}
	}
	raw, err := os.ReadFile("testdata/gemma3_270m.json")
	if err == nil {
		err = json.Unmarshal(raw, &ref)
	}
	if err != nil || len(ref.IDs) < 100 || len(ref.Continued) == 0 {
		t.Fatal(err)
	}
	ctx := context.Background()
	m := mustLoad(t, gemmaGGUF, Options{Backend: smolBackend(), DType: Float32})
	logits, err := m.Logits(ctx, [][]int{ref.IDs}, nil)
	if err != nil {
		t.Fatal(err)
	}
	nll := 0.0
	for i, id := range ref.IDs[1:] {
		nll += negativeLogLikelihood(logits[0][i], id)
	}
	n := float64(len(ref.IDs) - 1)
	if got, want := math.Exp(nll/n), math.Exp(ref.NLL/n); !(math.Abs(got-want) < 1e-3*want) {
		t.Errorf("perplexity %v, want %v within 0.1 %%", got, want)
	} else {
		t.Logf("perplexity %v, transformers' %v", got, want)
	}
	for _, c := range ref.Continued {
		got, err := m.GenerateIDs(ctx, nil, c.IDs, GenerationConfig{MaxNewTokens: len(c.Greedy), EOSTokenIDs: []int{-1}})
		if err != nil {
			t.Fatal(err)
		}
		clear := len(c.Greedy) // tokens before the first near-tie
		if i := slices.IndexFunc(c.Margins, func(m float64) bool { return m < 1e-2 }); i >= 0 {
			clear = i
		}
		if clear == 0 || len(got) < clear || !slices.Equal(got[:clear], c.Greedy[:clear]) {
			t.Errorf("%q continues with %v, want %v for %d tokens", c.Text, got, c.Greedy, clear)
		}
	}
}
