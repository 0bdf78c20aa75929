package sft

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/tokenizer"
)

func TestPrepareEqualsTRL(t *testing.T) {
	var fixture struct {
		Cases []struct {
			Name       string
			Rows       json.RawMessage
			Options    json.RawMessage
			InputIDs   [][]int32 `json:"input_ids"`
			Labels     [][]int32
			SeqLengths [][]int `json:"seq_lengths"`
		}
	}
	readFixture(t, "preparation.json", &fixture)
	tok, err := tokenizer.FromPretrained(filepath.Join("testdata", "tokenizer"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range fixture.Cases {
		t.Run(want.Name, func(t *testing.T) {
			in := decodeRows(t, want.Rows)
			c := readConfig(t, want.Options).withDefaults()
			d, _, err := prepare(FromRows(in), tok, c, c.Packing, "training")
			if err != nil {
				t.Fatal(err)
			}
			if len(d.rows) != len(want.InputIDs) {
				t.Fatalf("%d rows, TRL %d", len(d.rows), len(want.InputIDs))
			}
			for i, row := range d.rows {
				var ids, labels []int32
				var lengths []int
				for _, e := range row {
					ids, labels, lengths = append(ids, e.ids...), append(labels, e.labels...), append(lengths, len(e.ids))
				}
				if !slices.Equal(ids, want.InputIDs[i]) || !slices.Equal(labels, want.Labels[i]) {
					t.Errorf("row %d:\n ids %v\nTRL %v\n labels %v\nTRL    %v", i, ids, want.InputIDs[i], labels, want.Labels[i])
				}
				if want.SeqLengths != nil && !slices.Equal(lengths, want.SeqLengths[i]) {
					t.Errorf("row %d: documents of %v, TRL %v", i, lengths, want.SeqLengths[i])
				}
			}
		})
	}
}

// withTemplate is the fixtures' tokenizer with another chat template.
func withTemplate(t *testing.T, file string) *tokenizer.Tokenizer {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "tokenizer"))); err != nil {
		t.Fatal(err)
	}
	template, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "chat_template.jinja"), template, 0o666); err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.FromPretrained(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestAssistantMasksOfPublishedTemplatesEqualTRLs(t *testing.T) {
	var fixture struct {
		Cases []struct {
			Template string
			Rows     json.RawMessage
			InputIDs [][]int32 `json:"input_ids"`
			Labels   [][]int32
		}
	}
	readFixture(t, "templates.json", &fixture)
	if len(fixture.Cases) == 0 {
		t.Fatal("no cases")
	}
	for i, want := range fixture.Cases {
		t.Run(fmt.Sprint(i, " ", want.Template), func(t *testing.T) {
			tok := withTemplate(t, filepath.Join("..", "tokenizer", "testdata", want.Template+".jinja"))
			c := SFTConfig{AssistantOnlyLoss: true, Logger: quiet}.withDefaults()
			d, _, err := prepare(FromRows(decodeRows(t, want.Rows)), tok, c, false, "training")
			if err != nil {
				t.Fatal(err)
			}
			if len(d.rows) != len(want.InputIDs) {
				t.Fatalf("%d rows, TRL %d", len(d.rows), len(want.InputIDs))
			}
			for i, row := range d.rows {
				if !slices.Equal(row[0].ids, want.InputIDs[i]) || !slices.Equal(row[0].labels, want.Labels[i]) {
					t.Errorf("row %d:\n ids %v\nTRL %v\n labels %v\nTRL    %v", i, row[0].ids, want.InputIDs[i], row[0].labels, want.Labels[i])
				}
			}
		})
	}
}

func TestChatTemplatePathChangesTheTokenizersTemplate(t *testing.T) {
	tok, err := tokenizer.FromPretrained(filepath.Join("testdata", "tokenizer"))
	if err != nil {
		t.Fatal(err)
	}
	rows := FromRows([]Row{{"messages": chat("user", "a", "assistant", "b")}})
	c := testConfig(t)
	c.ChatTemplatePath = write(t, "mine.jinja", "{% for m in messages %}[{{ m.content }}]{% endfor %}")
	var text strings.Builder
	if _, err := Preview(&text, tok, rows, c, 1); err != nil || !strings.Contains(text.String(), "[⟦a][b]⟧") {
		t.Errorf("%q (%v)", text.String(), err)
	}
	saved := t.TempDir()
	if err := tok.SavePretrained(saved); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(saved, "chat_template.jinja")); err != nil || !strings.Contains(string(got), "[{{ m.content }}]") {
		t.Errorf("saved %q (%v)", got, err)
	}
	for says, path := range map[string]string{"no .jinja or .j2 file, and no tokenizer": filepath.Join(t.TempDir(), "name"), "no such file": "missing.jinja", "broken.j2": write(t, "broken.j2", "{% if %}")} {
		c.ChatTemplatePath = path
		_, err := NewSFTTrainer(newToyModel(), tok, rows, c)
		wantError(t, err, "ChatTemplatePath", says)
	}
	c.ChatTemplatePath = write(t, "mine.jinja", "x")
	_, err = NewSFTTrainer(newToyModel(), toyTokenizer{}, rows, c)
	wantError(t, err, "ChatTemplatePath", "toyTokenizer", "SetChatTemplate")
}

func TestChatTemplateAndEndOfSequenceAreTakenFromAnotherTokenizer(t *testing.T) {
	load := func(path string) *tokenizer.Tokenizer {
		t.Helper()
		tok, err := tokenizer.FromPretrained(path)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	folder := filepath.Join("testdata", "tokenizer")
	saved := func(change func(*tokenizer.Tokenizer) error) string {
		t.Helper()
		source, dir := load(folder), t.TempDir()
		if err := errors.Join(change(source), source.SavePretrained(dir)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	c := testConfig(t)
	tok := load(folder)
	c.ChatTemplatePath = saved(func(source *tokenizer.Tokenizer) error {
		return errors.Join(source.SetChatTemplate("{% for m in messages %}[{{ m.content }}]{{ eos_token }}{% endfor %}"), source.SetSpecialToken("eos_token", "<|im_start|>"))
	})
	var text strings.Builder
	rows := FromRows([]Row{{"messages": chat("user", "a", "assistant", "b")}})
	if _, err := Preview(&text, tok, rows, c, 1); err != nil || !strings.Contains(text.String(), "<|im_start|>[b]<|im_start|>⟧") || tok.EOSToken() != "<|im_start|>" {
		t.Errorf("%q (%v), end of sequence %q", text.String(), err, tok.EOSToken())
	}
	for says, change := range map[string]func(*tokenizer.Tokenizer) error{
		`"<|new|>"`: func(source *tokenizer.Tokenizer) error {
			_, err := source.AddSpecialTokens("<|new|>")
			return err
		},
		"has no chat template": func(source *tokenizer.Tokenizer) error { return source.SetChatTemplate("") },
	} {
		c.ChatTemplatePath = saved(change)
		_, err := NewSFTTrainer(newToyModel(), load(folder), rows, c)
		wantError(t, err, "ChatTemplatePath", says)
	}
}

func decodeRows(t *testing.T, text []byte) (rows []Row) {
	t.Helper()
	if err := json.Unmarshal(text, &rows); err != nil {
		t.Fatal(err)
	}
	return rows
}
