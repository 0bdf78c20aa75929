package models

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/tokenizer"
)

// storyteller is the small trained model of the examples with its tokenizer, and random adapters that change what it says.
func storyteller(t *testing.T, backend string) (*CausalLM, *tokenizer.Tokenizer, Adapters) {
	t.Helper()
	const dir = "../examples/tiny"
	m := mustLoad(t, dir, Options{Backend: backend, DType: Float32})
	tok, err := tokenizer.FromPretrained(dir)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(8, 8))
	var loras []LoRA
	for _, l := range m.Linears() {
		if !strings.HasSuffix(l.Path, "v_proj") {
			continue
		}
		lora := LoRA{Path: l.Path, R: 2, Scaling: 1, A: make([]float32, 2*l.In), B: make([]float32, 2*l.Out)}
		for _, values := range [][]float32{lora.A, lora.B} {
			for i := range values {
				values[i] = 0.2 * float32(random.NormFloat64())
			}
		}
		loras = append(loras, lora)
	}
	a, err := m.NewAdapters(loras)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, tok, a
}

const once = "Once upon a time"

// streamed collects a stream, whose pieces must be whole characters.
func streamed(t *testing.T, m *CausalLM, a Adapters, tok Tokenizer, c GenerationConfig) (text string, pieces int) {
	t.Helper()
	for piece, err := range m.StreamWith(context.Background(), a, tok, once, c) {
		if err != nil {
			t.Fatal(err)
		}
		if piece == "" || !utf8.ValidString(piece) {
			t.Errorf("a piece is %q", piece)
		}
		text += piece
		pieces++
	}
	return text, pieces
}

func TestStreamedTextIsTheGeneratedText(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		m, tok, adapters := storyteller(t, backend)
		var texts []string
		for _, a := range []Adapters{nil, adapters} {
			for _, c := range []GenerationConfig{
				{MaxNewTokens: 24},
				{MaxNewTokens: 40, DoSample: true, Temperature: 4, Seed: 1}, // bytes that are not UTF-8 among them
				{MaxNewTokens: 40, DoSample: true, Temperature: 4, Seed: 2},
			} {
				want, err := m.GenerateWith(context.Background(), a, tok, once, c)
				if err != nil {
					t.Fatal(err)
				}
				got, pieces := streamed(t, m, a, tok, c)
				if got != want || pieces < 4 {
					t.Errorf("streamed %q in %d pieces, generated %q", got, pieces, want)
				}
				got, _ = streamed(t, m, a, plainTokenizer{tok}, c)
				if got != want {
					t.Errorf("without the tokenizer's stream: %q, generated %q", got, want)
				}
				texts = append(texts, want)
			}
		}
		if texts[0] == texts[3] {
			t.Errorf("the adapters changed nothing: %q", texts[0])
		}
	})
}

// plainTokenizer has nothing but the methods of Tokenizer.
type plainTokenizer struct{ Tokenizer }

func TestTextEndsBeforeAStopString(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		m, tok, adapters := storyteller(t, backend)
		ctx := context.Background()
		for _, a := range []Adapters{nil, adapters} {
			all, err := m.GenerateWith(ctx, a, tok, once, GenerationConfig{MaxNewTokens: 24})
			if err != nil || len(all) < 30 {
				t.Fatalf("%q (%v)", all, err)
			}
			for name, stops := range map[string][]string{
				"across tokens":             {all[9:17]},
				"the first of several":      {all[20:24], "no such text", all[12:20]},
				"one character":             {all[11:12]},
				"not in the text":           {all[5:10] + "#"},
				"at the very beginning":     {all[:3]},
				"at the last of the tokens": {all[len(all)-2:]},
			} {
				want := all
				for _, s := range stops {
					if i := strings.Index(want, s); i >= 0 {
						want = want[:i]
					}
				}
				c := GenerationConfig{MaxNewTokens: 24, StopStrings: stops}
				got, err := m.GenerateBatchWith(ctx, a, tok, []string{"The king", once}, c)
				if err != nil || got[1] != want {
					t.Errorf("%s: text is %q (%v), want %q", name, got, err, want)
				}
				if got, _ := streamed(t, m, a, tok, c); got != want {
					t.Errorf("%s: streamed %q, want %q", name, got, want)
				}
			}
		}
	})
}

func TestAStopStringThatIsASpecialTokenEndsTheText(t *testing.T) {
	m, tok, _ := storyteller(t, "")
	ids, err := m.GenerateIDs(context.Background(), nil, []int{5, 6}, GenerationConfig{MaxNewTokens: 1})
	if err != nil {
		t.Fatal(err)
	}
	c := GenerationConfig{StopStrings: []string{tok.EOSToken(), "plain"}, EOSTokenIDs: ids}.forTokenizer(tok)
	if len(c.StopStrings) != 1 || len(c.EOSTokenIDs) != 2 || c.EOSTokenIDs[1] != tok.EOSID() {
		t.Errorf("became %+v", c)
	}
}

func TestStreamEndsWithItsContextAndItsLoop(t *testing.T) {
	m, tok, _ := storyteller(t, "")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var last error
	pieces := 0
	for piece, err := range m.Stream(ctx, tok, once, GenerationConfig{MaxNewTokens: 200, EOSTokenIDs: []int{}}) {
		last = err
		if err == nil {
			pieces++
		} else if piece != "" {
			t.Errorf("an error came with the piece %q", piece)
		}
		if pieces == 3 {
			cancel()
		}
	}
	if pieces != 3 || !errors.Is(last, context.Canceled) {
		t.Errorf("%d pieces, then error %v", pieces, last)
	}
	for range m.Stream(context.Background(), tok, once, GenerationConfig{MaxNewTokens: 200}) {
		break
	}
	for _, err := range m.Stream(context.Background(), tok, once, GenerationConfig{StopStrings: []string{"x", ""}}) {
		if err == nil || !strings.Contains(err.Error(), "StopStrings[1]") {
			t.Errorf("an empty stop string gave %v", err)
		}
	}
}

// scripted is a decode stream that returns what it is told to.
type scripted struct{ pieces []string }

func (s *scripted) Step(ids ...int) (string, error) { return s.pieces[ids[0]], nil }
func (s *scripted) Flush() (string, error)          { return "", nil }

// However text is cut into pieces, the same of it is released, nothing of a stop string before it is certain to be none.
func TestStopStringsDoNotDependOnThePieces(t *testing.T) {
	for _, test := range []struct {
		text, want string
		stops      []string
	}{
		{"ein Satz. Ende", "ein Satz", []string{". E", "Ende"}},
		{"aaab", "a", []string{"aab"}},
		{"abcd", "a", []string{"abcd", "b"}},
		{"xabc", "x", []string{"c", "abc"}},
		{"größer als ü", "gr", []string{"öß"}},
		{"größer als ü", "größer als ü", []string{"ü!", "ößt"}},
	} {
		runes := strings.Split(test.text, "")
		for cuts := range 1 << (len(runes) - 1) {
			s, piece := &scripted{}, ""
			for i, r := range runes {
				if piece += r; i == len(runes)-1 || cuts>>i&1 == 1 {
					s.pieces, piece = append(s.pieces, piece), ""
				}
			}
			w := &textWriter{stream: s, stops: test.stops}
			got := ""
			for i := 0; i < len(s.pieces) && !w.stopped; i++ {
				more, err := w.add(i)
				if err != nil {
					t.Fatal(err)
				}
				got += more
			}
			more, err := w.finish()
			if got += more; err != nil || got != test.want {
				t.Fatalf("%q in pieces %q with stops %q gave %q (%v), want %q", test.text, s.pieces, test.stops, got, err, test.want)
			}
		}
	}
}
