package tokenizer

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// transformersFixture is what transformers makes of folders: see testdata/make_pretrained.py.
type transformersFixture struct {
	Texts []string           `json:"texts"`
	Pairs [][2]string        `json:"pairs"`
	Calls []transformersCall `json:"calls"`
	Cases []struct {
		Base    string                     `json:"base"`
		Changes map[string]json.RawMessage `json:"changes"`
		Files   map[string]string          `json:"files"`
		Want    transformersTokenizer      `json:"want"`
	} `json:"cases"`
}

// transformersCall are keyword arguments of __call__.
type transformersCall struct {
	Padding     string `json:"padding"`
	Truncation  any    `json:"truncation"`
	MaxLength   int    `json:"max_length"`
	MultipleOf  int    `json:"pad_to_multiple_of"`
	Stride      int    `json:"stride"`
	Overflowing bool   `json:"return_overflowing_tokens"`
	PaddingSide string `json:"padding_side"`
}

type transformersTokenizer struct {
	Size           int                `json:"size"`
	Special        map[string]string  `json:"special"`
	MaxLength      int                `json:"max_length"`
	PaddingSide    string             `json:"padding_side"`
	TruncationSide string             `json:"truncation_side"`
	IDs            [][]int            `json:"ids"`
	Decoded        []string           `json:"decoded"`
	Skipped        []string           `json:"skipped"`
	AllSpecial     []int              `json:"all_special"`
	Chats          map[string]*string `json:"chats"`
	Calls          []struct {
		Error     string  `json:"error"`
		IDs       [][]int `json:"ids"`
		Types     [][]int `json:"types"`
		Attention [][]int `json:"attention"`
		Special   [][]int `json:"special"`
	} `json:"calls"`
}

func TestFoldersEqualTransformers(t *testing.T) {
	var f transformersFixture
	readFixture(t, "pretrained", &f)
	root := t.TempDir()
	var pairs []string // of folders: as given, as saved
	for i, c := range f.Cases {
		t.Run(fmt.Sprintf("%d %s", i, c.Base), func(t *testing.T) {
			dir, saved := filepath.Join(root, fmt.Sprint(i)), filepath.Join(root, fmt.Sprint(i, "saved"))
			writeTransformersFolder(t, dir, c.Base, c.Changes, c.Files)
			tok, err := FromPretrained(dir)
			if err != nil {
				t.Fatal(err)
			}
			checkTransformers(t, tok, &f, &c.Want)
			if err := tok.SavePretrained(saved); err != nil {
				t.Fatal(err)
			}
			again, err := FromPretrained(saved)
			if err != nil {
				t.Fatal(err)
			}
			checkTransformers(t, again, &f, &c.Want)
			pairs = append(pairs, dir, saved)
		})
	}
	checkWithPython(t, pairs)
}

func writeTransformersFolder(t *testing.T, dir, base string, changes map[string]json.RawMessage, files map[string]string) {
	t.Helper()
	all := map[string]string{"tokenizer.json": string(patched(t, base, changes).files.tokenizerJSON)}
	for name, text := range files {
		all[name] = text
	}
	writeFiles(t, dir, all)
}

// checkWithPython lets transformers compare pairs of folders, where LORIS_PYTHON names a Python that has it.
func checkWithPython(t *testing.T, pairs []string) {
	t.Helper()
	python := os.Getenv("LORIS_PYTHON")
	if python == "" {
		return
	}
	if out, err := exec.Command(python, append([]string{"testdata/make_pretrained.py"}, pairs...)...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func checkTransformers(t *testing.T, tok *Tokenizer, f *transformersFixture, want *transformersTokenizer) {
	t.Helper()
	same := func(what string, got, want any) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s\n got %v\nwant %v", what, got, want)
		}
	}
	same("tokens in all", tok.VocabSize(), want.Size)
	same("special tokens", tok.SpecialTokens(), want.Special)
	same("model_max_length", tok.ModelMaxLength(), want.MaxLength)
	same("sides", []Direction{tok.settings.paddingSide, tok.settings.truncationSide}, []string{want.PaddingSide, want.TruncationSide})
	var special []int
	for id, a := range tok.AddedTokens() {
		if a.Special {
			special = append(special, id)
		}
	}
	slices.Sort(special)
	same("ids of special tokens", special, want.AllSpecial)
	for i, text := range f.Texts {
		ids, err := tok.Encode(text, true)
		if err != nil {
			t.Fatal(err)
		}
		same(fmt.Sprintf("ids of %q", text), ids, want.IDs[i])
		for skip, w := range map[bool]string{false: want.Decoded[i], true: want.Skipped[i]} {
			s, err := tok.Decode(want.IDs[i], skip)
			if err != nil {
				t.Fatal(err)
			}
			same(fmt.Sprintf("decoded, skip %v", skip), fmt.Sprintf("%q", s), fmt.Sprintf("%q", w))
		}
	}
	for i, c := range f.Calls {
		checkCall(t, tok, f.Pairs, c, want, i)
	}
	for name, w := range want.Chats {
		checkChat(t, tok, name, w)
	}
}

func checkCall(t *testing.T, tok *Tokenizer, pairs [][2]string, c transformersCall, want *transformersTokenizer, i int) {
	t.Helper()
	o := EncodeOptions{Overflowing: c.Overflowing}
	var err error
	if c.Padding != "" {
		length := 0
		if c.Padding == "max_length" {
			length = c.MaxLength
		}
		if o.Padding, err = tok.NewPadding(length); err == nil {
			o.Padding.MultipleOf = c.MultipleOf
			if c.PaddingSide == "left" {
				o.Padding.Direction = Left
			}
		}
	}
	if c.Truncation != nil && (c.MaxLength > 0 || tok.ModelMaxLength() > 0) { // transformers does not truncate without a length
		o.Truncation = tok.NewTruncation(c.MaxLength)
		o.Truncation.Stride = c.Stride
		o.Truncation.Strategy = map[any]TruncationStrategy{"only_first": OnlyFirst, "only_second": OnlySecond}[c.Truncation]
	}
	w := want.Calls[i]
	var ids, types, attention, special [][]int
	if err == nil {
		inputs := []Input{}
		for _, p := range pairs {
			inputs = append(inputs, Pair(p[0], p[1]))
		}
		var all []*Encoding
		all, err = tok.EncodeBatch(context.Background(), inputs, o)
		for _, e := range all {
			for _, e := range append([]*Encoding{e}, e.Overflowing...) {
				ids, types = append(ids, e.IDs), append(types, e.TypeIDs)
				attention, special = append(attention, e.AttentionMask), append(special, e.SpecialTokensMask)
			}
		}
	}
	if (err != nil) != (w.Error != "") {
		t.Errorf("call %+v: error %v, want %q", c, err, w.Error)
		return
	}
	if got, want := fmt.Sprint(ids, types, attention, special), fmt.Sprint(w.IDs, w.Types, w.Attention, w.Special); got != want {
		t.Errorf("call %+v:\n got %s\nwant %s", c, got, want)
	}
}

func checkChat(t *testing.T, tok *Tokenizer, name string, want *string) {
	t.Helper()
	o := ChatOptions{}
	switch name {
	case "prompt":
		o.AddGenerationPrompt = true
	case "tools":
		o.Tools = json.RawMessage(`[{"type": "function"}]`)
	case "rag":
		o.Template = "rag"
	case "text":
		o.Template = "{{ eos_token }}!"
	}
	got, err := tok.ApplyChatTemplate([]Message{{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello </s>"}}, o)
	if (err != nil) != (want == nil) || want != nil && got != *want {
		t.Errorf("chat %s: %q %v, want %v", name, got, err, want)
	}
}
