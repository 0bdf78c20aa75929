package sft

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"

	source "github.com/loris-ml/loris/dataset"
	"github.com/loris-ml/loris/tokenizer"
)

// knownTokenizer is a toyTokenizer that a cache can tell from others.
type knownTokenizer struct {
	toyTokenizer
	name string
}

func (k knownTokenizer) Fingerprint() (string, error) { return k.name, nil }

func cachedRows() []Row {
	return []Row{
		{"prompt": "<s><s>a", "completion": "b"}, {"prompt": "what", "completion": "<|im_end|>"},
		{"prompt": "x", "completion": strings.Repeat("y", 30)}, {"prompt": strings.Repeat("z", 40), "completion": "q"},
	}
}

func preparedWith(t *testing.T, data *Dataset, tok Tokenizer, c SFTConfig) (*dataset, *DataReport) {
	t.Helper()
	d, report, err := prepare(data, tok, c.withDefaults(), c.Packing, "training")
	if err != nil {
		t.Fatal(err)
	}
	return d, report
}

func cacheFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestCachedTokensAreThoseOfTheRows(t *testing.T) {
	for _, packing := range []bool{false, true} {
		c := SFTConfig{MaxLength: 32, Packing: packing, Logger: quiet}
		want, plain := preparedWith(t, FromRows(cachedRows()), knownTokenizer{}, c)
		c.TokenCache = filepath.Join(t.TempDir(), "deep", "cache")
		for _, cached := range []bool{false, true, true} {
			got, report := preparedWith(t, FromRows(cachedRows()), knownTokenizer{}, c)
			if report.Cached != cached {
				t.Errorf("packing %v: cached %v, want %v", packing, report.Cached, cached)
			}
			report.Cached = false
			if !reflect.DeepEqual(report, plain) || got.fingerprint() != want.fingerprint() {
				t.Errorf("packing %v, cached %v:\n got %+v\nwant %+v", packing, cached, report, plain)
			}
		}
		if files := cacheFiles(t, c.TokenCache); len(files) != 1 {
			t.Errorf("files %q, want one", files)
		}
	}
}

func TestTheCacheKeyIsAllThatTokensDependOn(t *testing.T) {
	dir := t.TempDir()
	base := SFTConfig{TokenCache: dir, Logger: quiet}
	cached := func(data *Dataset, tok Tokenizer, c SFTConfig) bool {
		t.Helper()
		_, report := preparedWith(t, data, tok, c)
		return report.Cached
	}
	with := func(f func(*SFTConfig)) SFTConfig {
		c := base
		f(&c)
		return c
	}
	chats := func() *Dataset {
		return FromRows([]Row{{"messages": chat("user", "a", "assistant", "b", "user", "c", "assistant", "d")}})
	}
	rows := FromRows(cachedRows())
	texts := FromRows([]Row{{"text": "a", "body": "b"}})
	format := func(Row) (string, error) { return "formatted", nil }
	for _, c := range []struct {
		name   string
		data   *Dataset
		tok    Tokenizer
		config SFTConfig
	}{
		{"rows", rows, knownTokenizer{}, base},
		{"other rows", rows.Take(2), knownTokenizer{}, base},
		{"another tokenizer", rows, knownTokenizer{name: "other"}, base},
		{"whole sequence", rows, knownTokenizer{}, with(func(c *SFTConfig) { c.CompletionOnlyLoss = new(false) })},
		{"another end", rows, knownTokenizer{}, with(func(c *SFTConfig) { c.EOSToken = "<|im_end|>" })},
		{"texts", texts, knownTokenizer{}, base},
		{"another column", texts, knownTokenizer{}, with(func(c *SFTConfig) { c.DatasetTextField = "body" })},
		{"formatted", texts, knownTokenizer{}, with(func(c *SFTConfig) { c.FormattingFunc = format })},
		{"chats", chats(), knownTokenizer{}, base},
		{"chats, assistant", chats(), knownTokenizer{}, with(func(c *SFTConfig) { c.AssistantOnlyLoss = true })},
		{"chats, last turn", chats(), knownTokenizer{}, with(func(c *SFTConfig) { c.LastTurnOnlyLoss = true })},
	} {
		if cached(c.data, c.tok, c.config) {
			t.Errorf("%s: tokens of something else were taken", c.name)
		}
		if !cached(c.data, c.tok, c.config) {
			t.Errorf("%s: tokens were made anew", c.name)
		}
	}
	if !cached(rows, knownTokenizer{}, with(func(c *SFTConfig) { c.MaxLength, c.Packing, c.Seed = 16, true, 3 })) {
		t.Error("tokens were made anew for another length, which they do not depend on")
	}
	if !cached(FromRows(cachedRows()).Map(func(r Row) (Row, error) { return r, nil }), knownTokenizer{}, base) {
		t.Error("tokens were made anew for the same rows from elsewhere")
	}
}

func TestDamagedCacheFilesAreMadeAnew(t *testing.T) {
	c := SFTConfig{TokenCache: t.TempDir(), Logger: quiet}
	want, _ := preparedWith(t, FromRows(cachedRows()), knownTokenizer{}, c)
	path := cacheFiles(t, c.TokenCache)[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := map[string][]byte{"empty": {}, "short": whole[:20], "cut": whole[:len(whole)-1], "longer": append(append([]byte{}, whole...), 0), "another version": append([]byte("loris tokens 00\n"), whole[16:]...)}
	for _, at := range []int{0, 16, len(whole) / 2, len(whole) - 40, len(whole) - 1} {
		flipped := append([]byte{}, whole...)
		flipped[at] ^= 1
		damaged[fmt.Sprint("byte ", at)] = flipped
	}
	for name, content := range damaged {
		if err := os.WriteFile(path+".new", content, 0o666); err != nil { // as it comes: the old one may still be mapped
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		log, said := logTo()
		c.Logger = log
		got, report := preparedWith(t, FromRows(cachedRows()), knownTokenizer{}, c)
		if report.Cached || got.fingerprint() != want.fingerprint() {
			t.Errorf("%s: cached %v, or other tokens", name, report.Cached)
		}
		if !strings.Contains(said.String(), "made anew") || !strings.Contains(said.String(), path) {
			t.Errorf("%s: the log does not warn: %s", name, said)
		}
		if again, err := os.ReadFile(path); err != nil || string(again) != string(whole) {
			t.Errorf("%s: the file is not what it was (%v)", name, err)
		}
	}
}

func TestConcurrentTrainersShareTheCache(t *testing.T) {
	c := SFTConfig{TokenCache: t.TempDir(), Logger: quiet}.withDefaults()
	first, _ := preparedWith(t, FromRows(cachedRows()), knownTokenizer{}, c)
	want := first.fingerprint()
	for _, name := range []string{"there", "not there"} {
		if name == "not there" {
			if err := os.Remove(cacheFiles(t, c.TokenCache)[0]); err != nil {
				t.Fatal(err)
			}
		}
		var running sync.WaitGroup
		for range 8 {
			running.Go(func() {
				d, _, err := prepare(FromRows(cachedRows()), knownTokenizer{}, c, false, "training")
				if err != nil || d.fingerprint() != want {
					t.Errorf("%s: other tokens (%v)", name, err)
				}
			})
		}
		running.Wait()
		if files := cacheFiles(t, c.TokenCache); len(files) != 1 {
			t.Errorf("%s: files %q, want one", name, files)
		}
	}
}

func TestTheCacheReportsWhatItCannotDo(t *testing.T) {
	c := SFTConfig{TokenCache: t.TempDir(), Logger: quiet}.withDefaults()
	_, _, err := prepare(FromRows(cachedRows()), toyTokenizer{}, c, false, "training")
	wantError(t, err, "TokenCache", "toyTokenizer", "Fingerprint")
	_, _, err = prepare(FromRows([]Row{{"text": "a"}, {"text": "☃"}}), knownTokenizer{}, c, false, "training")
	wantError(t, err, "row 2", "not ASCII")
	if files := cacheFiles(t, c.TokenCache); len(files) != 0 {
		t.Errorf("an error left %q", files)
	}
	c.TokenCache = filepath.Join(write(t, "file", ""), "cache")
	_, _, err = prepare(FromRows(cachedRows()), knownTokenizer{}, c, false, "training")
	wantError(t, err, "SFTConfig.TokenCache")
}

func TestTheTokenizersFingerprintFollowsItsTemplate(t *testing.T) {
	load := func() *tokenizer.Tokenizer {
		tok, err := tokenizer.FromPretrained(filepath.Join("testdata", "tokenizer"))
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	a, b := load(), load()
	first, err1 := a.Fingerprint()
	same, err2 := b.Fingerprint()
	if err := errors.Join(err1, err2, b.SetSpecialToken("pad_token", "</s>")); err != nil {
		t.Fatal(err)
	}
	other, err := b.Fingerprint()
	if err != nil || first != same || first == other || len(first) != 64 {
		t.Errorf("%s, %s, %s (%v)", first, same, other, err)
	}
}

func TestStreamsTrainAsTheirRowsInMemory(t *testing.T) {
	c := testConfig(t)
	want := mustTrain(t, newToyModel(), zen(), c)
	passes := 0
	stream := source.FromSeq(func(yield func(Row, error) bool) {
		passes++
		for row, err := range FromRows(zen()).All() {
			if !yield(row, err) {
				return
			}
		}
	})
	trainer, err := NewSFTTrainer(newToyModel(), toyTokenizer{}, stream, c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := trainer.Train(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.TrainingLoss != want.TrainingLoss || passes != 2 { // one looks at the first row
		t.Errorf("loss %v after %d passes, want %v", got.TrainingLoss, passes, want.TrainingLoss)
	}
}

func TestAnErrorOfTheDataSetEndsPreparation(t *testing.T) {
	for n, says := range map[int]string{0: "training data set: broken", 1: "behind row 1: broken", 200: "behind row 200: broken"} {
		data := source.FromSeq(func(yield func(Row, error) bool) {
			for range n {
				if !yield(Row{"text": "a"}, nil) {
					return
				}
			}
			yield(nil, errors.New("broken"))
		})
		_, _, err := prepare(data, toyTokenizer{}, SFTConfig{Logger: quiet}.withDefaults(), false, "training")
		wantError(t, err, says)
	}
}

func TestStreamsAreTokenizedInConstantMemory(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	const rows, length = 8000, 250 // 16 MB of ids and labels
	stream := source.FromSeq(func(yield func(Row, error) bool) {
		for i := range rows {
			if !yield(Row{"text": strings.Repeat(string(rune('a'+i%26)), length)}, nil) {
				return
			}
		}
	})
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	d, _ := preparedWith(t, stream, knownTokenizer{}, SFTConfig{TokenCache: t.TempDir(), Logger: quiet})
	grown := heap() - before
	if len(d.rows) != rows || d.rows[rows-1].length() != length+2 {
		t.Fatalf("%d rows, the last of %d tokens", len(d.rows), d.rows[rows-1].length())
	}
	t.Logf("%d bytes for each of %d rows of %d tokens", grown/rows, rows, length)
	if grown > 4<<20 {
		t.Errorf("the heap grew by %d bytes; the tokens are %d", grown, rows*length*8)
	}
	runtime.KeepAlive(d)
}
