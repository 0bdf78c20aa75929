package tokenizer

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// base is a whole tokenizer.json; the tests below break one part of it.
const base = `{"version":"1.0","added_tokens":[{"id":6,"content":"<s>","special":true,"normalized":false,"lstrip":false,"rstrip":false,"single_word":false}],
"normalizer":NORMALIZER,"pre_tokenizer":PRE,"post_processor":POST,"decoder":DECODER,"model":MODEL}`

const baseModel = `{"type":"BPE","vocab":{"a":0,"b":1,"c":2,"ab":3,"<unk>":4,"▁":5},"merges":["a b"],"unk_token":"<unk>"}`

func document1(field, value string) string {
	parts := map[string]string{"NORMALIZER": "null", "PRE": "null", "POST": "null", "DECODER": "null", "MODEL": baseModel}
	if field != "" {
		parts[field] = value
	}
	s := base
	for k, v := range parts {
		s = strings.Replace(s, k, v, 1)
	}
	return s
}

func TestDamagedFilesAreErrorsThatSayWhere(t *testing.T) {
	if _, err := newPipeline("ok.json", []byte(document1("", ""))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		field, value string
		want         []string
	}{
		{"NORMALIZER", `{"type":"Hyphenate"}`, []string{"normalizer", "Hyphenate", "not supported"}},
		{"NORMALIZER", `{"type":"Precompiled","precompiled_charsmap":"AAAA"}`, []string{"normalizer.precompiled_charsmap", "3 bytes"}},
		{"NORMALIZER", `{"type":"Precompiled","precompiled_charsmap":"CQAAAAAAAAA="}`, []string{"normalizer.precompiled_charsmap", "9 bytes"}},
		{"NORMALIZER", `{"type":"Precompiled","precompiled_charsmap":"?"}`, []string{"normalizer.precompiled_charsmap", "base64"}},
		{"NORMALIZER", `{"type":"Precompiled"}`, []string{"normalizer.precompiled_charsmap", "0 bytes"}},
		{"NORMALIZER", `{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Odd"}]}`, []string{"normalizer.normalizers[1]", "Odd"}},
		{"NORMALIZER", `{"type":3}`, []string{"normalizer", "number"}},
		{"NORMALIZER", `{}`, []string{"normalizer", `"type"`}},
		{"NORMALIZER", `[]`, []string{"normalizer", "array"}},
		{"NORMALIZER", `{"type":"Replace","content":"x"}`, []string{"normalizer", "pattern"}},
		{"NORMALIZER", `{"type":"Replace","pattern":{"Regex":"("},"content":"x"}`, []string{"normalizer", "Regex", `"("`}},
		{"MODEL", strings.Replace(baseModel, `"ab":3`, `"ab":16777215`, 1), []string{"model.vocab", `"ab"`, "16777215", "0 to 1048600"}},
		{"PRE", `{"type":"Syllables"}`, []string{"pre_tokenizer", "Syllables", "not supported"}},
		{"PRE", `{"type":"FixedLength","length":0}`, []string{"pre_tokenizer", "length", "0"}},
		{"PRE", `{"type":"Sequence","pretokenizers":[{"type":"Digits"},{"type":"Split","pattern":{"Regex":"["},"behavior":"Isolated"}]}`, []string{"pre_tokenizer.pretokenizers[1]", "pattern.Regex"}},
		{"PRE", `{"type":"Split","pattern":{"String":" "},"behavior":"Sideways"}`, []string{"pre_tokenizer", "behavior", "Sideways"}},
		{"PRE", `{"type":"Metaspace","replacement":""}`, []string{"pre_tokenizer", "replacement", `""`}},
		{"PRE", `{"type":"Metaspace","replacement":"_","prepend_scheme":"last"}`, []string{"prepend_scheme", "last"}},
		{"PRE", `{"type":"CharDelimiterSplit","delimiter":"ab"}`, []string{"delimiter", `"ab"`}},
		{"PRE", `{"type":"ByteLevel","use_regex":"yes"}`, []string{"pre_tokenizer", "use_regex"}},
		{"POST", `{"type":"Stamp"}`, []string{"post_processor", "Stamp"}},
		{"POST", `{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}}],"special_tokens":{}}`, []string{"post_processor", "single[0]", "<s>"}},
		{"POST", `{"type":"TemplateProcessing","single":[{"Sequence":{"id":"B","type_id":0}}],"special_tokens":{}}`, []string{"post_processor", "single[0]"}},
		{"POST", `{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}],"special_tokens":{"x":{"ids":[-4],"tokens":["x"]}}}`, []string{"special_tokens.x", "-4"}},
		{"POST", `{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}],"special_tokens":{"x":{"ids":[1,2],"tokens":["x"]}}}`, []string{"special_tokens.x", "2 ids"}},
		{"POST", `{"type":"TemplateProcessing","single":[],"pair":[{"Sequence":{"id":"C"}}],"special_tokens":{}}`, []string{"post_processor", "pair[0]", `"B"`}},
		{"POST", `{"type":"TemplateProcessing","single":[],"pair":[{"SpecialToken":{"id":"x"}}],"special_tokens":{}}`, []string{"post_processor", "pair[0]", `"x"`}},
		{"POST", `{"type":"BertProcessing","cls":["a"],"sep":["b",1]}`, []string{"post_processor.cls", "1 values"}},
		{"POST", `{"type":"BertProcessing","cls":["a",0],"sep":[1,"b"]}`, []string{"post_processor.sep"}},
		{"DECODER", `{"type":"Reverse"}`, []string{"decoder", "Reverse"}},
		{"DECODER", `{"type":"CTC","cleanup":1}`, []string{"decoder", "cleanup"}},
		{"DECODER", `{"type":"Sequence","decoders":[{"type":"Strip","content":"ab","start":1,"stop":0}]}`, []string{"decoder.decoders[0]", `"ab"`}},
		{"MODEL", `null`, []string{"model", "missing"}},
		{"MODEL", `{"type":"Neural","vocab":{}}`, []string{"model", "Neural"}},
		{"MODEL", `{"type":"BPE","merges":[]}`, []string{"model.vocab", "missing"}},
		{"MODEL", `{"type":"BPE","vocab":{"a":0}}`, []string{"model.merges", "missing"}},
		{"MODEL", `{"type":"BPE","vocab":{"a":"0"},"merges":[]}`, []string{"model.vocab", "string"}},
		{"MODEL", `{"type":"BPE","vocab":{"a":-1},"merges":[]}`, []string{"model.vocab", `"a"`, "-1"}},
		{"MODEL", `{"type":"BPE","vocab":{"a":4000000000},"merges":[]}`, []string{"model.vocab", `"a"`, "4000000000"}},
		{"MODEL", `{"type":"BPE","vocab":{"a":0,"b":0},"merges":[]}`, []string{"model.vocab", `"a"`, `"b"`, "share id 0"}},
		{"MODEL", `{"type":"BPE","vocab":["a"],"merges":[]}`, []string{"model.vocab"}},
		{"MODEL", `{"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"]}`, []string{"merges[0]", `"a"`, `"b"`}},
		{"MODEL", `{"type":"BPE","vocab":{"a":0},"merges":["a"]}`, []string{"model.merges", "[0]", `"a"`}},
		{"MODEL", `{"type":"BPE","vocab":{"a":0},"merges":["a a a"]}`, []string{"model.merges", "[0]"}},
		{"MODEL", `{"type":"BPE","vocab":{"a":0},"merges":[["a"]]}`, []string{"model.merges", "[0]", "two tokens"}},
		{"MODEL", `{"type":"BPE","vocab":{"a":0},"merges":3}`, []string{"model.merges"}},
		{"MODEL", `{"type":"BPE","vocab":{"a":0},"merges":[],"dropout":0.1}`, []string{"model", "dropout 0.1"}},
		{"MODEL", `{"type":"Unigram","vocab":[["a"]],"unk_id":0}`, []string{"model.vocab", "[0]", "1 values"}},
		{"MODEL", `{"type":"Unigram","vocab":[["a","x"]],"unk_id":0}`, []string{"model.vocab.[0]"}},
		{"MODEL", `{"type":"Unigram","vocab":[["a",-1.5]],"unk_id":7}`, []string{"unk_id", "7"}},
	} {
		_, err := newPipeline("f.json", []byte(document1(c.field, c.value)))
		if err == nil {
			t.Errorf("%s: no error", c.value)
			continue
		}
		for _, w := range append(c.want, "f.json") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %q does not say %q", c.value, err, w)
			}
		}
	}
}

func TestTruncatedFileIsAnErrorEverywhere(t *testing.T) {
	data, err := os.ReadFile("testdata/bert/tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(data); n += 97 {
		if _, err := newPipeline("cut.json", data[:n]); err == nil || !strings.Contains(err.Error(), "cut.json") {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func TestUnsupportedComponentHasItsType(t *testing.T) {
	_, err := newPipeline("f.json", []byte(document1("PRE", `{"type":"Syllables"}`)))
	var u *UnsupportedError
	if !errors.As(err, &u) || *u != (UnsupportedError{"f.json", "pre_tokenizer", "Syllables"}) {
		t.Errorf("%#v", err)
	}
}

func TestUnknownTextWithoutUnknownTokenIsAnError(t *testing.T) {
	for _, model := range []string{
		`{"type":"BPE","vocab":{"a":0},"merges":[],"unk_token":"?"}`,
		`{"type":"WordLevel","vocab":{"a":0},"unk_token":"?"}`,
		`{"type":"WordPiece","vocab":{"a":0},"unk_token":"?"}`,
		`{"type":"Unigram","vocab":[["a",-1]],"unk_id":null}`,
	} {
		p, err := newPipeline("f.json", []byte(document1("MODEL", model)))
		if err != nil {
			t.Fatal(err)
		}
		tok := &Tokenizer{pipeline: p}
		if _, err := tok.Encode("a", false); err != nil {
			t.Errorf("%s: known text: %v", model, err)
		}
		if _, err := tok.Encode("z", false); err == nil || !strings.Contains(err.Error(), "f.json: model: unk_") {
			t.Errorf("%s: %v", model, err)
		}
	}
}

// TestAddedTokenIDsFollowTheReference: ids that the file gives do not count, as tokenizers 0.23.3 shows for these files.
func TestAddedTokenIDsFollowTheReference(t *testing.T) {
	const model = `{"type":"BPE","vocab":{"a":0,"b":1,"c":2,"d":3,"e":4},"merges":[]}`
	for _, c := range []struct {
		added, text string
		want        []int
		offsets     [][2]int
	}{
		{`[{"id":10,"content":"<x>"},{"id":7,"content":"<y>"}]`, "a<x><y>", []int{0, 5, 6}, [][2]int{{0, 1}, {1, 4}, {4, 7}}},
		{`[{"id":3,"content":"<x>"},{"id":9,"content":"b","special":true}]`, "a<x>bd", []int{0, 5, 1, 3}, [][2]int{{0, 1}, {1, 4}, {4, 5}, {5, 6}}},
		{`[{"id":5,"content":"<x>","rstrip":true},{"id":6,"content":"  "}]`, "a<x>   b  ", []int{0, 5, 6, 1, 6}, [][2]int{{0, 1}, {1, 7}, {4, 6}, {6, 7}, {8, 10}}},
		{`[{"id":5,"content":"<x>","lstrip":true},{"id":6,"content":"ab","single_word":true},{"id":7,"content":"b"}]`, "aab ab <x>ab",
			[]int{0, 0, 1, 6, 5, 6}, [][2]int{{0, 1}, {1, 2}, {2, 3}, {4, 6}, {6, 10}, {10, 12}}},
	} {
		p, err := newPipeline("f.json", []byte(`{"added_tokens":`+c.added+`,"model":`+model+`}`))
		if err != nil {
			t.Fatal(err)
		}
		e, err := (&Tokenizer{pipeline: p}).EncodeFull(c.text, false)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := json.Marshal([]any{e.IDs, e.Offsets})
		want, _ := json.Marshal([]any{c.want, c.offsets})
		if string(got) != string(want) {
			t.Errorf("%s %q: %s, want %s", c.added, c.text, got, want)
		}
	}
}

// folder writes files into a new folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, files)
	return dir
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDamagedConfigurationNamesFileAndField(t *testing.T) {
	for _, c := range []struct {
		file, text string
		want       []string
	}{
		{"tokenizer_config.json", `{"bos_token":`, []string{"tokenizer_config.json"}},
		{"tokenizer_config.json", `[]`, []string{"tokenizer_config.json", "array"}},
		{"tokenizer_config.json", `{"bos_token":3}`, []string{"tokenizer_config.json", "bos_token", "3"}},
		{"tokenizer_config.json", `{"bos_token":{"text":"x"}}`, []string{"bos_token", "content"}},
		{"tokenizer_config.json", `{"chat_template":3}`, []string{"chat_template", "name, template"}},
		{"tokenizer_config.json", `{"chat_template":[{"name":"default"}]}`, []string{"chat_template", "[0]"}},
		{"special_tokens_map.json", `{"eos_token":[]}`, []string{"special_tokens_map.json", "eos_token"}},
		{"special_tokens_map.json", `x`, []string{"special_tokens_map.json"}},
		{"generation_config.json", `{"eos_token_id":"2"}`, []string{"generation_config.json", "eos_token_id"}},
		{"generation_config.json", `{`, []string{"generation_config.json"}},
		{"tokenizer.json", ``, []string{"tokenizer.json"}},
	} {
		dir := folder(t, map[string]string{"tokenizer.json": document1("", "")})
		if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.text), 0o666); err != nil {
			t.Fatal(err)
		}
		_, err := FromPretrained(dir)
		if err == nil {
			t.Errorf("%s %s: no error", c.file, c.text)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %q does not say %q", c.text, err, w)
			}
		}
	}
	for _, path := range []string{"testdata/absent", "testdata", "doc.go"} {
		if _, err := FromPretrained(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
