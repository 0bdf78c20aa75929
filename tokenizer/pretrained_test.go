package tokenizer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestConfigurationGivesSpecialTokens(t *testing.T) {
	tok, err := FromPretrained(folder(t, map[string]string{
		"tokenizer.json":          document1("", ""),
		"tokenizer_config.json":   `{"bos_token":{"content":"<s>","lstrip":false},"eos_token":"c","pad_token":null,"chat_template":[{"name":"default","template":"D"},{"name":"tool_use","template":"T"}]}`,
		"special_tokens_map.json": `{"eos_token":"b","unk_token":"<unk>","pad_token":"a"}`,
		"generation_config.json":  `{"eos_token_id":[2,1]}`,
	}))
	if err != nil {
		t.Fatal(err)
	}
	got := []any{tok.BOSToken(), tok.EOSToken(), tok.PadToken(), tok.UnkToken(), tok.BOSID(), tok.EOSID(), tok.PadID(), tok.ChatTemplate(), tok.VocabSize()}
	want := []any{"<s>", "b", "a", "<unk>", 6, 1, 0, "D", 7} // special_tokens_map.json comes before tokenizer_config.json
	if !reflect.DeepEqual(got, want) || !slices.Equal(tok.EOSIDs(), []int{2, 1}) {
		t.Errorf("got %v %v, want %v", got, tok.EOSIDs(), want)
	}
	if id, ok := tok.TokenToID("ab"); !ok || id != 3 {
		t.Errorf("ab: %d %v", id, ok)
	}
	if _, ok := tok.TokenToID("zz"); ok {
		t.Error("zz has an id")
	}
	if s, ok := tok.IDToToken(6); !ok || s != "<s>" || !tok.IsSpecial(6) || tok.IsSpecial(3) {
		t.Errorf("6: %q %v", s, ok)
	}
	for _, id := range []int{-1, 7, 1 << 30} {
		if s, ok := tok.IDToToken(id); ok {
			t.Errorf("%d: %q", id, s)
		}
	}
}

func TestTemplateFileComesBeforeConfiguration(t *testing.T) {
	tok, err := FromPretrained(folder(t, map[string]string{
		"tokenizer.json": document1("", ""), "tokenizer_config.json": `{"chat_template":"from config"}`,
		"chat_template.jinja": "from file\n", "additional_chat_templates/rag.jinja": "R",
	}))
	if err != nil {
		t.Fatal(err)
	}
	if tok.ChatTemplate() != "from file\n" || tok.templates.named["rag"] != "R" {
		t.Errorf("%+v", tok.templates)
	}
}

// As transformers 5.24.0, which drops the two fields where there is a tokenizer.json.
func TestPostProcessorDecidesWhateverTheConfigurationSays(t *testing.T) {
	post := `{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[6],"tokens":["<s>"]}}}`
	for _, config := range []string{`{}`, `{"bos_token":"<s>","add_bos_token":false}`, `{"bos_token":"<s>","eos_token":"c","add_bos_token":true,"add_eos_token":true}`} {
		tok, err := FromPretrained(folder(t, map[string]string{"tokenizer.json": document1("POST", post), "tokenizer_config.json": config}))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tok.Encode("ab", true); err != nil || !slices.Equal(got, []int{6, 3}) {
			t.Errorf("%s: %v %v", config, got, err)
		}
		if got, err := tok.Encode("ab", false); err != nil || !slices.Equal(got, []int{3}) {
			t.Errorf("%s without special tokens: %v %v", config, got, err)
		}
	}
}

func TestSaveKeepsEverything(t *testing.T) {
	in := map[string]string{
		"tokenizer.json":          document1("", ""),
		"tokenizer_config.json":   `{"bos_token":"<s>","model_max_length":1000000000000000019884624838656,"chat_template":[{"name":"default","template":"<D>"},{"name":"rag","template":"R"}]}`,
		"special_tokens_map.json": `{"unk_token": "<unk>"}`,
	}
	tok, err := FromPretrained(folder(t, in))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "new", "folder")
	if err := tok.SavePretrained(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tokenizer.json", "special_tokens_map.json"} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != in[name] {
			t.Errorf("%s: %q %v", name, data, err)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "tokenizer_config.json"))
	if err != nil || !bytes.Contains(data, []byte("1000000000000000019884624838656")) || bytes.Contains(data, []byte("chat_template")) {
		t.Errorf("tokenizer_config.json: %s %v", data, err)
	}
	again, err := FromPretrained(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again.templates, tok.templates) || !reflect.DeepEqual(again.special, tok.special) {
		t.Errorf("got %+v %+v, want %+v %+v", again.templates, again.special, tok.templates, tok.special)
	}
	tok.templates.set("../up", "x")
	if err := tok.SavePretrained(dir); err == nil || !strings.Contains(err.Error(), "../up") {
		t.Errorf("a template named ../up: %v", err)
	}
}

func TestSavedGGUFIsATokenizerJSON(t *testing.T) {
	tok, dir := loadTiny(t), t.TempDir()
	if err := tok.SavePretrained(dir); err != nil {
		t.Fatal(err)
	}
	again, err := FromPretrained(dir)
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, again, readGolden(t, "smollm2"))
	if again.special.bos != tok.special.bos || again.EOSID() != 2 || again.PadID() != 2 || again.ChatTemplate() != tok.ChatTemplate() {
		t.Errorf("got %+v, want %+v", again.special, tok.special)
	}
}

func TestTextMustBeUTF8(t *testing.T) {
	tok := loadTiny(t)
	for text, at := range map[string]int{"ab\xff": 2, "日\xe6\x97": 3, "\xed\xa0\x80": 0, "\ufffd\x80": 3} {
		_, err := tok.Encode(text, false)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("offset %d", at)) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := tok.Encode("\ufffd", false); err != nil {
		t.Error(err)
	}
}

func TestDecodeRefusesLabelsAndSkipsUnknownIDs(t *testing.T) {
	tok := loadTiny(t)
	if _, err := tok.Decode([]int{5, -100}, false); err == nil || !strings.Contains(err.Error(), "ids[1] is -100") {
		t.Error(err)
	}
	if s, err := tok.Decode([]int{36, 100000, 36}, false); err != nil || s != "BB" {
		t.Errorf("%q %v", s, err)
	}
}

func TestConcurrentUseGivesTheSameIDs(t *testing.T) {
	tok := loadTiny(t)
	all := readGolden(t, "smollm2")
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range all {
				g := all[(i+w*17)%len(all)]
				if ids, err := tok.Encode(g.Text, false); err != nil || !slices.Equal(ids, g.IDs) {
					t.Errorf("%q: %v %v", g.Text, ids, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
