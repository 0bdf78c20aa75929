package tokenizer

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

type chatGolden struct {
	Name     string    `json:"name"`
	Template string    `json:"template"`
	Messages []Message `json:"messages"`
	Prompt   bool      `json:"add_generation_prompt"`
	Continue bool      `json:"continue_final_message"`
	Text     string    `json:"text"`
	Spans    [][2]int  `json:"spans"`
	Raises   string    `json:"raises"`
}

func TestChatEqualsTransformers(t *testing.T) {
	data, err := os.ReadFile("testdata/chat.golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []chatGolden
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) < 300 {
		t.Fatalf("only %d renders", len(all))
	}
	for _, g := range all {
		tok := &Tokenizer{templates: templates{standard: g.Template}}
		o := ChatOptions{AddGenerationPrompt: g.Prompt, ContinueFinalMessage: g.Continue}
		text, spans, err := tok.ApplyChatTemplateSpans(g.Messages, o)
		name := fmt.Sprintf("%s prompt %v continue %v", g.Name, g.Prompt, g.Continue)
		if g.Raises != "" {
			if err == nil {
				t.Errorf("%s: rendered %q, Python raises %s", name, text, g.Raises)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if text != g.Text {
			t.Errorf("%s:\n got %q\nwant %q", name, text, g.Text)
		}
		if !g.Continue && !(len(spans) == 0 && len(g.Spans) == 0) && !reflect.DeepEqual(spans, g.Spans) {
			t.Errorf("%s: spans %v, want %v", name, spans, g.Spans)
		}
	}
}

func TestContinuedTurnIsTrainedWithoutItsEnd(t *testing.T) {
	tok := loadTiny(t)
	text, spans, err := tok.ApplyChatTemplateSpans([]Message{{"role": "user", "content": "a"}, {"role": "assistant", "content": "bcd"}}, ChatOptions{ContinueFinalMessage: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(spans) != 1 || text[spans[0][0]:spans[0][1]] != "bcd" || spans[0][1] != len(text) {
		t.Errorf("spans %v of %q", spans, text)
	}
}

func TestChatErrorsNameWhatIsWrong(t *testing.T) {
	user := []Message{{"role": "user", "content": "x"}}
	for _, c := range []struct {
		name, template string
		messages       []Message
		options        ChatOptions
		want           []string
	}{
		{"no template", "", user, ChatOptions{}, []string{"no chat template", "chat_template.jinja"}},
		{"other family", "[INST] {{ messages[0]['content'] }} [/INST]", user, ChatOptions{}, []string{"[INST]", "not supported"}},
		{"nearly ChatML", chatMLLoop + strings.ReplaceAll(chatMLTurn, "'content'", "'text'"), user, ChatOptions{}, []string{"not supported"}},
		{"text between tags", chatMLLoop + "x" + chatMLTurn, user, ChatOptions{}, []string{"not supported"}},
		{"content of another type", chatMLLoop + chatMLTurn, []Message{{"role": "user", "content": 3}}, ChatOptions{}, []string{"messages[0].content", "int"}},
		{"no role", chatMLLoop + chatMLTurn, []Message{user[0], {"content": "x"}}, ChatOptions{}, []string{"messages[1]", `"role"`}},
		{"both ends", chatMLLoop + chatMLTurn, user, ChatOptions{AddGenerationPrompt: true, ContinueFinalMessage: true}, []string{"AddGenerationPrompt", "ContinueFinalMessage"}},
		{"nothing to continue", chatMLLoop + chatMLTurn, nil, ChatOptions{ContinueFinalMessage: true}, []string{"empty"}},
	} {
		tok := &Tokenizer{templates: templates{standard: c.template}}
		_, err := tok.ApplyChatTemplate(c.messages, c.options)
		if err == nil {
			t.Errorf("%s: no error", c.name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %q does not say %q", c.name, err, w)
			}
		}
	}
}

func TestToolsChooseTheToolTemplate(t *testing.T) {
	tok := &Tokenizer{templates: templates{standard: "unsupported", named: map[string]string{"tool_use": chatMLLoop + chatMLTurn}}}
	if _, err := tok.ApplyChatTemplate([]Message{{"role": "user", "content": "x"}}, ChatOptions{Tools: []any{}}); err != nil {
		t.Error(err)
	}
	if _, err := tok.ApplyChatTemplate([]Message{{"role": "user", "content": "x"}}, ChatOptions{}); err == nil {
		t.Error("the default template was not used without tools")
	}
}
