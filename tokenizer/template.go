package tokenizer

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// templates are the chat templates of a tokenizer.
type templates struct {
	standard string            // the one named default
	named    map[string]string // the others, such as tool_use
}

// readTemplates takes the templates in files, chat_template.jinja and the folder additional_chat_templates. Only without any
// of these, those in the field chat_template of tokenizer_config.json count: a text or a list of {name, template}.
func (t *Tokenizer) readTemplates(dir string, config node) error {
	if err := t.readConfigTemplates(config); err != nil {
		return err
	}
	var found templates
	more, err := filepath.Glob(filepath.Join(globEscape(dir), "additional_chat_templates", "*.jinja"))
	if err != nil {
		return fmt.Errorf("tokenizer: %s: %w", dir, err)
	}
	for _, file := range more {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("tokenizer: %w", err)
		}
		found.set(strings.TrimSuffix(filepath.Base(file), ".jinja"), string(data))
	}
	file, err := readJSON(dir, "chat_template.jinja")
	if err != nil {
		return err
	}
	if file.raw != nil {
		found.standard = string(file.raw)
	}
	if file.raw != nil || len(more) > 0 {
		t.templates = found
	}
	return nil
}

// readConfigTemplates takes the templates out of the fields of tokenizer_config.json.
func (t *Tokenizer) readConfigTemplates(config node) error {
	n := config.child("chat_template", t.files.config["chat_template"])
	delete(t.files.config, "chat_template")
	if n.absent() {
		return nil
	}
	if json.Unmarshal(n.raw, &t.templates.standard) == nil {
		return nil
	}
	var list []struct {
		Name     *string `json:"name"`
		Template *string `json:"template"`
	}
	if err := n.decode(&list); err != nil {
		return n.errorf("want a text or a list of {name, template}: %w", err)
	}
	for i, e := range list {
		if e.Name == nil || e.Template == nil {
			return n.errorf("[%d]: want both name and template", i)
		}
		t.templates.set(*e.Name, *e.Template)
	}
	return nil
}

func globEscape(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

func (t *templates) set(name, text string) {
	if name == "default" {
		t.standard = text
		return
	}
	if t.named == nil {
		t.named = map[string]string{}
	}
	t.named[name] = text
}

// choose returns the template for a conversation: the one asked for by name or given as text, else the one named tool_use
// where tools are given, else the default.
func (t *templates) choose(asked string, tools bool) (string, error) {
	if s, ok := t.named[asked]; ok {
		return s, nil
	}
	if asked != "" && asked != "default" {
		return asked, nil
	}
	if s := t.named["tool_use"]; tools && s != "" && asked == "" {
		return s, nil
	}
	if t.standard == "" && len(t.named) > 0 {
		return "", fmt.Errorf("tokenizer: no default chat template, only %q; choose one with ChatOptions.Template", slices.Sorted(maps.Keys(t.named)))
	}
	if t.standard == "" {
		return "", fmt.Errorf("tokenizer: no chat template: want chat_template.jinja, or chat_template in tokenizer_config.json")
	}
	return t.standard, nil
}

// SetChatTemplate replaces the chat templates by one, as setting chat_template of a transformers tokenizer does. A text that is
// no template is an error. No other call may run at the same time.
func (t *Tokenizer) SetChatTemplate(text string) error {
	if _, err := t.parsed.parse(text); err != nil {
		return err
	}
	t.templates = templates{standard: text}
	return nil
}

// ChatTemplate returns the text of the default chat template, "" when there is none.
func (t *Tokenizer) ChatTemplate() string { return t.templates.standard }
