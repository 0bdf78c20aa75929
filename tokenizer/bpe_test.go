package tokenizer

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// cutAndWhole returns a model that cuts its pieces into words, and one that takes them whole.
func cutAndWhole(t testing.TB, name string) (cut, whole *bpe) {
	t.Helper()
	file := filepath.Join("testdata", name, "tokenizer.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	load := func() *bpe {
		p, err := newPipeline(file, data)
		if err != nil {
			t.Fatal(err)
		}
		return p.model.(*bpe)
	}
	var doc struct {
		Model struct{ Merges json.RawMessage }
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	merges, err := readMerges(node{raw: doc.Model.Merges})
	if err != nil {
		t.Fatal(err)
	}
	cut, whole = load(), load()
	cut.cuts, whole.cuts = wordCutsOf(merges, len(merges)), nil
	return cut, whole
}

func checkCuts(t *testing.T, cut, whole *bpe, text string) {
	t.Helper()
	a, err := cut.appendTokens(nil, text)
	if err != nil {
		t.Fatal(err)
	}
	b, err := whole.appendTokens(nil, text)
	if err != nil || !slices.Equal(a, b) {
		t.Fatalf("%q: cut %v, whole %v, %v", text, a, b, err)
	}
}

func FuzzWordCuts(f *testing.F) {
	var cut, whole []*bpe
	for _, name := range []string{"stories260K", "llama2", "gemma"} { // none, 98 and 98 merges across words
		a, b := cutAndWhole(f, name)
		cut, whole = append(cut, a), append(whole, b)
	}
	for i, g := range readGolden(f, "llama2") {
		f.Add(i, g.Text)
	}
	f.Fuzz(func(t *testing.T, which int, text string) {
		if text == "" || !utf8.ValidString(text) {
			return
		}
		k := uint(which) % uint(len(cut))
		checkCuts(t, cut[k], whole[k], strings.ReplaceAll(text, " ", wordMark))
	})
}

func TestMergesAcrossWordsAreNotCut(t *testing.T) {
	model := `{"type":"BPE","vocab":{"a":0,"b":1,"▁":2,"▁b":3,"a▁b":4,"▁▁":5,"c":6,"<unk>":7},"merges":["▁ b","a ▁b","▁ ▁"],"unk_token":"<unk>"}`
	p, err := newPipeline("t.json", []byte(`{"model":`+model+`}`))
	if err != nil {
		t.Fatal(err)
	}
	tok := &Tokenizer{pipeline: p}
	for text, want := range map[string][]int{"a▁b": {4}, "c▁b": {6, 3}, "a▁c": {0, 2, 6}, "ca▁bc▁ba▁▁ba": {6, 4, 6, 3, 0, 2, 3, 0}, "x▁bx": {7, 3, 7}} {
		got, err := tok.Encode(text, false)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v (%v)", text, got, want, err)
		}
		if cuts := p.model.(*bpe).cuts; len(cuts.inside) != 1 {
			t.Errorf("inside: %q", cuts.inside)
		}
	}
}

func TestLongWordsMergeAsShortOnesDo(t *testing.T) {
	tok, err := FromPretrained("testdata/llama3")
	if err != nil {
		t.Fatal(err)
	}
	m := tok.model.(*bpe)
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		word := make([]byte, 2+r.IntN(shortWord-1))
		for i := range word {
			word[i] = "the tion日本ing 12"[r.IntN(20)]
		}
		var a []token
		for i, b := range word {
			a = append(a, token{m.bytes[b], int32(i), int32(i) + 1})
		}
		b := slices.Clone(a)
		a, b = a[:m.merge.applyShort(a)], b[:m.merge.applyLong(b)]
		if !slices.Equal(a, b) {
			t.Fatalf("%q: %v by looking again, %v by heap", word, a, b)
		}
	}
}

func TestChunksMergeAsWholeWordsDo(t *testing.T) {
	for _, name := range []string{"llama3", "gpt2", "llama2", "gemma", "stories260K", "sparse_unk", "bpe_suffix"} {
		tok, err := FromPretrained(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		m := tok.model.(*bpe)
		r := rand.New(rand.NewPCG(7, 8))
		for i := range 3000 {
			alphabet := []string{"the tion日本ing 12", "ab", "a", "hello world", "▁▁the▁of"}[i%5]
			var word []rune
			for range 1 + r.IntN(300) {
				word = append(word, []rune(alphabet)[r.IntN(len([]rune(alphabet)))])
			}
			var symbols []token
			if m.byteLevel {
				for k := range len(string(word)) {
					symbols = append(symbols, token{m.bytes[string(word)[k]], int32(k), int32(k) + 1})
				}
			} else if symbols, err = m.appendSymbols(nil, string(word)); err != nil {
				t.Fatal(err)
			}
			if len(symbols) == 0 {
				continue
			}
			whole, chunks := slices.Clone(symbols), slices.Clone(symbols)
			whole = whole[:m.merge.applyWhole(whole)]
			size := 1 + r.IntN(40)
			chunks = chunks[:m.merge.applyChunks(chunks, size)]
			if !slices.Equal(whole, chunks) {
				t.Fatalf("%s: %q in chunks of %d: %v, want %v", name, string(word), size, chunks, whole)
			}
		}
	}
}

// A word without a place to cut it must not take quadratic time, nor leave its memory behind.
func TestTenMegabytesWithoutASpaceTakeLinearTime(t *testing.T) {
	if testing.Short() {
		t.Skip("a measurement")
	}
	r := rand.New(rand.NewPCG(3, 4))
	letters := make([]byte, 10_000_000)
	for i := range letters {
		letters[i] = byte('a' + r.IntN(26))
	}
	layouts := []string{"llama3", "gemma"}
	if os.Getenv("LORIS_TEST_LONG") != "" {
		layouts = []string{"llama3", "gpt2", "smollm2", "gemma", "mistral", "llama2"}
	}
	for name, text := range map[string]string{"one letter": strings.Repeat("a", 10_000_000), "letters": string(letters),
		"ideographs": strings.Repeat("日本語文章", 700_000), "spaces": strings.Repeat(" ", 10_000_000), "digits": strings.Repeat("7", 10_000_000)} {
		for _, layout := range layouts {
			tok, err := FromPretrained(filepath.Join("testdata", layout))
			if err != nil {
				t.Fatal(err)
			}
			takesLinearTime(t, layout+", "+name, func(part int) {
				if ids, err := tok.Encode(text[:len(text)/15/part*15], false); err != nil || len(ids) == 0 {
					t.Errorf("%s, %s: %d ids, %v", layout, name, len(ids), err)
				}
			})
		}
	}
}

// takesLinearTime compares the whole of the work with a tenth of it, so that a slow or busy machine changes nothing:
// quadratic work would take a hundred times as long.
func takesLinearTime(t *testing.T, name string, work func(part int)) {
	t.Helper()
	measure := func(part int) time.Duration {
		start := time.Now()
		work(part)
		return time.Since(start)
	}
	tenth, whole := measure(10), measure(1)
	t.Logf("%s: %v, a tenth of it %v", name, whole, tenth)
	if whole > 40*tenth+time.Second {
		t.Errorf("%s: %v for the whole, %v for a tenth: more than linear", name, whole, tenth)
	}
}

func TestWordCacheIsBounded(t *testing.T) {
	tok, err := FromPretrained("testdata/llama3")
	if err != nil {
		t.Fatal(err)
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	r := rand.New(rand.NewPCG(5, 6))
	word := make([]byte, maxCachedWord)
	for range 200_000 {
		for i := range word {
			word[i] = byte('a' + r.IntN(26))
		}
		if _, err := tok.Encode(string(word), false); err != nil {
			t.Fatal(err)
		}
	}
	grown := int64(heap()) - int64(before)
	const most = 2 * cacheSets * (maxCachedWord*13 + 120)
	if grown > most {
		t.Errorf("the cache grew by %d bytes; want at most %d", grown, most)
	}
	used := 0
	for i := range tok.model.(*bpe).cache.sets {
		for k := range tok.model.(*bpe).cache.sets[i] {
			if e := tok.model.(*bpe).cache.sets[i][k].Load(); e != nil {
				used++
				if len(e.word) > maxCachedWord || cap(e.tokens) > maxCachedWord+16 {
					t.Fatalf("a cached word of %d bytes and %d tokens", len(e.word), cap(e.tokens))
				}
			}
		}
	}
	if used < cacheSets {
		t.Errorf("only %d words are cached", used)
	}
	runtime.KeepAlive(tok)
}

func TestTextThatIsNotUTF8IsAnError(t *testing.T) {
	for _, layout := range layouts {
		tok, err := FromPretrained(filepath.Join("testdata", layout))
		if err != nil {
			t.Fatal(err)
		}
		for text, offset := range map[string]string{"\xff": "offset 0", "ab\xc3": "offset 2", "日\xe6\x97": "offset 3", "\xed\xa0\x80": "offset 0", "\xf4\x90\x80\x80": "offset 0", "\xc0\xaf": "offset 0"} {
			if ids, err := tok.Encode(text, true); err == nil || !strings.Contains(err.Error(), offset) || ids != nil {
				t.Errorf("%s: %q: %v, %v", layout, text, ids, err)
			}
		}
	}
}
