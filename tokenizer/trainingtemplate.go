package tokenizer

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync"
)

//go:embed trainingtemplates/index.json trainingtemplates/*.jinja
var trainingFiles embed.FS

// trainingNames are the names of the files by the hash of the template that each replaces.
var trainingNames = sync.OnceValues(func() (map[string]string, error) {
	raw, err := trainingFiles.ReadFile("trainingtemplates/index.json")
	if err != nil {
		return nil, err
	}
	var index struct{ Templates map[string]string }
	err = json.Unmarshal(raw, &index)
	return index.Templates, err
})

// TrainingTemplate returns the chat template with which an assistant-only loss is trained where it is not the tokenizer's own:
// for a published template without {% generation %}, the variant of it that TRL swaps in (trl.get_training_chat_template),
// which marks the assistant's text. "" stands for the tokenizer's own: it marks that text itself, or no variant is known. Give
// the result as ChatOptions.Template.
func (t *Tokenizer) TrainingTemplate() (string, error) {
	own := t.templates.standard
	if own == "" {
		return "", nil
	}
	parsed, err := t.parsed.parse(own)
	if err != nil {
		return "", err
	}
	if parsed.HasGenerations() {
		return "", nil
	}
	names, err := trainingNames()
	if err != nil {
		return "", fmt.Errorf("tokenizer: training templates: %w", err)
	}
	sum := sha256.Sum256([]byte(own))
	name, ok := names[hex.EncodeToString(sum[:])]
	if !ok {
		return "", nil
	}
	text, err := trainingFiles.ReadFile("trainingtemplates/" + name + ".jinja")
	if err != nil {
		return "", fmt.Errorf("tokenizer: training templates: %w", err)
	}
	return string(text), nil
}
