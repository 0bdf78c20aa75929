package tokenizer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTrainingTemplatesRenderAsInTransformers(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "training_templates.json"))
	if err != nil {
		t.Fatal(err)
	}
	var fixture struct {
		Chats   map[string][]Message
		Renders map[string]map[string]struct {
			Error, SHA256 string
			Spans         [][2]int
		}
	}
	if err := json.Unmarshal(raw, &fixture); err != nil {
		t.Fatal(err)
	}
	if len(fixture.Renders) < 20 {
		t.Fatalf("only %d templates", len(fixture.Renders))
	}
	tok, err := FromPretrained(filepath.Join("testdata", "llama3"))
	if err != nil {
		t.Fatal(err)
	}
	variables := map[string]any{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "date_string": "today"}
	for name, chats := range fixture.Renders {
		text, err := trainingFiles.ReadFile("trainingtemplates/" + name + ".jinja")
		if err != nil {
			t.Fatal(err)
		}
		for chat, want := range chats {
			got, spans, err := tok.ApplyChatTemplateSpans(fixture.Chats[chat], ChatOptions{Template: string(text), Kwargs: variables})
			if (err != nil) != (want.Error != "") {
				t.Errorf("%s, %s: error %v, transformers %q", name, chat, err, want.Error)
				continue
			}
			sum := sha256.Sum256([]byte(got))
			if err == nil && (hex.EncodeToString(sum[:]) != want.SHA256 || fmt.Sprint(spans) != fmt.Sprint(want.Spans)) {
				t.Errorf("%s, %s: %q with %v, transformers has other text or %v", name, chat, got, spans, want.Spans)
			}
		}
	}
}

// loadedWith is the tokenizer of a folder with another chat template.
func loadedWith(t *testing.T, template string) *Tokenizer {
	t.Helper()
	dir := t.TempDir()
	document, err := os.ReadFile(filepath.Join("testdata", "llama3", "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"tokenizer.json": string(document), "chat_template.jinja": template} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	tok, err := FromPretrained(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestTrainingTemplateIsThatOfTheTokenizersOwn(t *testing.T) {
	for _, name := range []string{"qwen3", "llama3"} {
		plain, err := os.ReadFile(filepath.Join("testdata", name+".jinja"))
		if err != nil {
			t.Fatal(err)
		}
		want, err := trainingFiles.ReadFile("trainingtemplates/" + name + ".jinja")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := loadedWith(t, string(plain)).TrainingTemplate(); err != nil || got != string(want) {
			t.Errorf("%s: %.60q (%v)", name, got, err)
		}
		for what, own := range map[string]string{"marked itself": string(want), "not known": string(plain) + " "} {
			if got, err := loadedWith(t, own).TrainingTemplate(); err != nil || got != "" {
				t.Errorf("%s, %s: %.60q (%v)", name, what, got, err)
			}
		}
	}
	none, err := FromPretrained(filepath.Join("testdata", "llama3"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := none.TrainingTemplate(); err != nil || got != "" {
		t.Errorf("without a template: %q (%v)", got, err)
	}
	if _, err := loadedWith(t, "{% if %}").TrainingTemplate(); err == nil {
		t.Error("a broken template has no error")
	}
}

func TestEveryTrainingTemplateMarksWhatIsTrained(t *testing.T) {
	names, err := trainingNames()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, name := range names {
		text, err := trainingFiles.ReadFile("trainingtemplates/" + name + ".jinja")
		if err != nil {
			t.Error(err)
		}
		if !strings.Contains(string(text), "generation") {
			t.Errorf("%s marks nothing", name)
		}
		seen[name+".jinja"] = true
	}
	files, err := trainingFiles.ReadDir("trainingtemplates")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".jinja") && !seen[f.Name()] {
			t.Errorf("%s replaces no template", f.Name())
		}
	}
}
