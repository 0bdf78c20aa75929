package tokenizer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestBatchEqualsSingleEncodings(t *testing.T) {
	for _, name := range []string{"bert", "llama3", "unigram"} {
		tok, err := FromPretrained("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		o := EncodeOptions{Truncation: &Truncation{MaxLength: 12, Stride: 2}, Overflowing: true}
		var inputs []Input
		all := readGolden(t, name)
		for i, g := range all {
			switch i % 4 {
			case 0:
				inputs = append(inputs, Pair(g.Text, all[(i*7)%len(all)].Text))
			case 1:
				inputs = append(inputs, Words(strings.Fields(g.Text)))
			default:
				inputs = append(inputs, Text(g.Text))
			}
		}
		got, err := tok.EncodeBatch(context.Background(), inputs, o)
		if err != nil {
			t.Fatal(err)
		}
		for i, in := range inputs {
			want, err := tok.EncodeInput(in, o)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got[i], want) {
				t.Errorf("%s: input %d differs", name, i)
			}
		}
		var ids [][]int
		for _, g := range all {
			ids = append(ids, g.SpecialIDs)
		}
		texts, err := tok.DecodeBatch(context.Background(), ids, true)
		if err != nil {
			t.Fatal(err)
		}
		for i, g := range all {
			if texts[i] != g.Skipped {
				t.Errorf("%s: decoded %q, want %q", name, texts[i], g.Skipped)
			}
		}
	}
}

func TestBatchIsPaddedToOneLength(t *testing.T) {
	tok, err := FromPretrained("testdata/bert")
	if err != nil {
		t.Fatal(err)
	}
	inputs := []Input{Text("a"), Text("the quick brown fox jumps over"), Text(""), Pair("the dog", "isn't it?")}
	got, err := tok.EncodeBatch(context.Background(), inputs, EncodeOptions{Padding: &Padding{MultipleOf: 8, ID: 3, Token: "[PAD]", Direction: Left},
		Truncation: &Truncation{MaxLength: 6}, Overflowing: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range got {
		for _, e := range append([]*Encoding{e}, e.Overflowing...) {
			if len(e.IDs) != 8 || len(e.AttentionMask) != 8 || len(e.Offsets) != 8 || len(e.SequenceIDs) != 8 {
				t.Errorf("input %d has %d tokens", i, len(e.IDs))
			}
			n := 8 - slices.Index(e.AttentionMask, 1)
			for k := range e.IDs {
				if padding := k < 8-n; padding != (e.AttentionMask[k] == 0) || padding && (e.IDs[k] != 3 || e.Tokens[k] != "[PAD]" || e.SpecialTokensMask[k] != 1 || e.WordIDs[k] != -1) {
					t.Errorf("input %d, token %d: %+v", i, k, e)
				}
			}
		}
	}
}

func TestFirstErrorOfABatchIsReported(t *testing.T) {
	tok := loadTiny(t)
	inputs := make([]Input, 300)
	for i := range inputs {
		inputs[i] = Text("fine")
		if i >= 137 {
			inputs[i] = Text("\xff")
		}
	}
	for range 20 {
		if _, err := tok.EncodeBatch(context.Background(), inputs, EncodeOptions{}); err == nil || !strings.Contains(err.Error(), "inputs[137]") {
			t.Fatal(err)
		}
	}
	if _, err := tok.DecodeBatch(context.Background(), [][]int{{1}, {-5}}, false); err == nil || !strings.Contains(err.Error(), "sequence 1") || !strings.Contains(err.Error(), "-5") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := tok.EncodeBatch(ctx, inputs, EncodeOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestBatchUsesAsManyGoroutinesAsCores(t *testing.T) {
	var now, most atomic.Int32
	var mu sync.Mutex
	seen := map[int]bool{}
	err := forEach(context.Background(), 1000, func(i int) error {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		mu.Lock()
		defer mu.Unlock()
		seen[i] = true
		return nil
	})
	if err != nil || len(seen) != 1000 || int(most.Load()) > runtime.GOMAXPROCS(0) {
		t.Errorf("%v: %d of 1000, %d at once", err, len(seen), most.Load())
	}
}

func TestConcurrentBatchesShareOneTokenizer(t *testing.T) {
	tok, err := FromPretrained("testdata/llama3")
	if err != nil {
		t.Fatal(err)
	}
	all := readGolden(t, "llama3")
	var inputs []Input
	for _, g := range all {
		inputs = append(inputs, Text(g.Text))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			got, err := tok.EncodeBatch(context.Background(), inputs, EncodeOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			for i, e := range got {
				if !slices.Equal(e.IDs, all[i].SpecialIDs) {
					t.Errorf("%q: %v", all[i].Text, e.IDs)
				}
			}
		})
	}
	wg.Wait()
}

func TestOptionsOutOfRangeAreErrors(t *testing.T) {
	tok, err := FromPretrained("testdata/bert")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in   Input
		o    EncodeOptions
		want string
	}{
		{Text("a"), EncodeOptions{Truncation: &Truncation{}}, "model_max_length"},
		{Text("a"), EncodeOptions{Truncation: &Truncation{MaxLength: -1}}, "MaxLength is -1"},
		{Text("a"), EncodeOptions{Truncation: &Truncation{MaxLength: 5, Stride: -2}}, "Stride is -2"},
		{Text("a"), EncodeOptions{Truncation: &Truncation{MaxLength: 5, Strategy: 7}}, "Strategy is 7"},
		{Text("a"), EncodeOptions{Truncation: &Truncation{MaxLength: 5, Direction: 7}}, "Direction is 7"},
		{Text("a"), EncodeOptions{Truncation: &Truncation{MaxLength: 1}}, "adds 2 tokens"},
		{Text("the quick brown fox"), EncodeOptions{Truncation: &Truncation{MaxLength: 5, Stride: 3}}, "Stride is 3"},
		{Text("the quick brown fox"), EncodeOptions{Truncation: &Truncation{MaxLength: 5, Strategy: OnlySecond}}, "one text"},
		{Pair("the quick brown fox", "a"), EncodeOptions{Truncation: &Truncation{MaxLength: 5, Strategy: OnlySecond}}, "OnlySecond"},
		{Text("a"), EncodeOptions{Padding: &Padding{Length: -1}}, "Padding.Length is -1"},
		{Text("a"), EncodeOptions{Padding: &Padding{MultipleOf: -1}}, "Padding.MultipleOf is -1"},
		{Text("a"), EncodeOptions{Padding: &Padding{Direction: 2}}, "Padding.Direction is 2"},
		{Pair("a", "\xff"), EncodeOptions{}, "not valid UTF-8"},
		{Words([]string{"a", "\xff"}), EncodeOptions{}, "word 1"},
	} {
		_, err := tok.EncodeInput(c.in, c.o)
		_, batch := tok.EncodeBatch(context.Background(), []Input{c.in}, c.o)
		if err == nil || batch == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(batch.Error(), c.want) {
			t.Errorf("%+v: %v, %v, want %q", c.o, err, batch, c.want)
		}
	}
	if _, err := tok.NewPadding(0); err == nil || !strings.Contains(err.Error(), "SetSpecialToken") {
		t.Error(err)
	}
	if err := tok.SetTruncation(&Truncation{}); err == nil {
		t.Error("truncation to 0 tokens was set")
	}
	if err := tok.SetPadding(&Padding{ID: -1}); err == nil {
		t.Error("padding with id -1 was set")
	}
	for role, token := range map[string]string{"pad": "a", "pad_token": "no such token"} {
		if err := tok.SetSpecialToken(role, token); err == nil || !strings.Contains(err.Error(), role) {
			t.Errorf("%s: %v", role, err)
		}
	}
}

func TestSpecialTokenWithARoleIsSaved(t *testing.T) {
	tok, err := FromPretrained(folder(t, map[string]string{"tokenizer.json": document1("", ""), "special_tokens_map.json": `{"eos_token": "b"}`}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tok.AddSpecialTokens("<pad>"); err != nil {
		t.Fatal(err)
	}
	if err := tok.SetSpecialToken("pad_token", "<pad>"); err != nil {
		t.Fatal(err)
	}
	if err := tok.SetSpecialToken("eos_token", "c"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := tok.SavePretrained(dir); err != nil {
		t.Fatal(err)
	}
	again, err := FromPretrained(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again.PadToken() != "<pad>" || again.PadID() != tok.NextTokenID()-1 || again.EOSToken() != "c" {
		t.Errorf("%v %d", again.SpecialTokens(), again.PadID())
	}
	p, err := again.NewPadding(4)
	if err != nil || p.ID != again.PadID() || p.Token != "<pad>" {
		t.Errorf("%+v %v", p, err)
	}
}

func TestWordsCountAsInTheirTexts(t *testing.T) {
	tok, err := FromPretrained("testdata/roberta")
	if err != nil {
		t.Fatal(err)
	}
	words := []string{"unaffable", "", " 日本 ", "reading!"}
	e, err := tok.EncodeInput(Words(words), EncodeOptions{NoSpecialTokens: true})
	if err != nil {
		t.Fatal(err)
	}
	lo, hi := make([]int, len(words)), make([]int, len(words))
	got := make([]string, len(words))
	for i, o := range e.Offsets {
		w := e.WordIDs[i]
		if o[0] == o[1] {
			continue // a blank that is not part of its word
		}
		if hi[w] == 0 {
			lo[w] = o[0]
		}
		hi[w] = max(hi[w], o[1])
		got[w] = words[w][lo[w]:hi[w]]
	}
	if fmt.Sprint(got) != fmt.Sprint([]string{"unaffable", "", "日本", "reading!"}) {
		t.Errorf("%q: %v %v", got, e.WordIDs, e.Offsets)
	}
}

func TestDamagedTruncationAndPaddingAreErrors(t *testing.T) {
	for field, cases := range map[string]map[string]string{
		"truncation": {`{"max_length":0,"strategy":"LongestFirst","stride":0}`: "max_length", `{"max_length":4,"strategy":"Middle","stride":0}`: "Middle",
			`{"max_length":4,"strategy":"OnlyFirst","stride":0,"direction":"Up"}`: "Up", `{"max_length":"4"}`: "string"},
		"padding": {`{"strategy":"Shortest","direction":"Left"}`: "Shortest", `{"strategy":{"Fixed":-3},"direction":"Left"}`: "-3", `{"strategy":"BatchLongest","direction":"left"}`: `"left"`, `[]`: "array"},
	} {
		for value, want := range cases {
			_, err := newPipeline("f.json", []byte(`{"`+field+`":`+value+`,"model":`+baseModel+`}`))
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "f.json: "+field) {
				t.Errorf("%s %s: %v", field, value, err)
			}
		}
	}
}

// A step that changes the text must not hide where pieces begin from a later Metaspace that prepends to the first one only.
func TestIDsAloneEqualFullEncodingsAfterTextsWereChanged(t *testing.T) {
	for _, pre := range []string{
		`{"type":"Sequence","pretokenizers":[{"type":"Metaspace","replacement":"▁","prepend_scheme":"always"},{"type":"Punctuation"},{"type":"Metaspace","replacement":"_","prepend_scheme":"first"}]}`,
		`{"type":"Sequence","pretokenizers":[{"type":"ByteLevel","add_prefix_space":true},{"type":"Metaspace","replacement":"_","prepend_scheme":"first"}]}`,
		`{"type":"Metaspace","replacement":"_","prepend_scheme":"first"}`,
	} {
		tok := patched(t, "sparse_unk", map[string]json.RawMessage{"pre_tokenizer": json.RawMessage(pre)})
		for _, text := range []string{"the, dog", "a b", "日 the.", "<s> x"} {
			full, err := tok.EncodeFull(text, true)
			if err != nil {
				t.Fatal(err)
			}
			if ids, err := tok.Encode(text, true); err != nil || !slices.Equal(ids, full.IDs) {
				t.Errorf("%s %q: %v %v, full %v", pre, text, ids, err, full.IDs)
			}
		}
	}
}
