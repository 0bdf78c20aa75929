package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
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
		tok := withTemplate(g.Template)
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

const (
	chatMLTurns  = `{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}`
	chatMLPrompt = `{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`
	chatML       = chatMLTurns + chatMLPrompt
	alternating  = `{% for m in messages %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{{ m.content }}</s>{% endfor %}`
)

func withTemplate(template string) *Tokenizer {
	return &Tokenizer{templates: templates{standard: template}, special: specialTokens{bos: "<s>", eos: "</s>"}}
}

func TestChatErrorsNameWhatIsWrong(t *testing.T) {
	user := []Message{{"role": "user", "content": "x"}}
	kwargs := func(m map[string]any) ChatOptions { return ChatOptions{Kwargs: m} }
	for _, c := range []struct {
		name, template string
		messages       []Message
		options        ChatOptions
		want           []string
	}{
		{"no template", "", user, ChatOptions{}, []string{"no chat template", "chat_template.jinja"}},
		{"syntax", "a\n{% for x %}", user, ChatOptions{}, []string{"chat template, line 2", "TemplateSyntaxError", "in"}},
		{"inheritance", "{% extends 'x' %}", user, ChatOptions{}, []string{"UnsupportedError", "extends"}},
		{"content of another type", chatML, []Message{user[0], {"role": "user", "content": 3}}, ChatOptions{}, []string{"messages[1]", "line 1", "TypeError", `"int"`}},
		{"no role", chatML, []Message{user[0], {"content": "x"}}, ChatOptions{}, []string{"messages[1]", "'role'"}},
		{"refused", alternating, []Message{user[0], user[0], user[0]}, ChatOptions{}, []string{"messages[1]: the chat template refuses the conversation: roles must alternate"}},
		{"refused as a whole", "{{ raise_exception('no') }}", user, ChatOptions{}, []string{"tokenizer: the chat template refuses the conversation: no"}},
		{"text that is not UTF-8", chatML, []Message{{"role": "user", "content": "\xff"}}, ChatOptions{}, []string{"messages[0]: content", "UTF-8"}},
		{"both ends", chatML, user, ChatOptions{AddGenerationPrompt: true, ContinueFinalMessage: true}, []string{"AddGenerationPrompt", "ContinueFinalMessage"}},
		{"nothing to continue", chatML, nil, ChatOptions{ContinueFinalMessage: true}, []string{"empty"}},
		{"no content to continue", chatML, []Message{{"role": "user"}}, ChatOptions{ContinueFinalMessage: true}, []string{"messages[0] has no content"}},
		{"no text to continue", chatML, []Message{{"role": "user", "content": []any{map[string]any{"type": "image"}}}}, ChatOptions{ContinueFinalMessage: true}, []string{"messages[0].content has no text"}},
		{"content that the template drops", "{# content #}{{ messages[0].role }}", user, ChatOptions{ContinueFinalMessage: true}, []string{"does not appear"}},
		{"content that the template does not know", "{{ messages[0].role }}", user, ChatOptions{ContinueFinalMessage: true}, []string{"does not read content"}},
		{"argument as a further variable", chatML, user, kwargs(map[string]any{"tools": nil}), []string{"Kwargs", `"tools"`}},
		{"variable that is no data", chatML, user, kwargs(map[string]any{"f": func() {}}), []string{"Kwargs: f"}},
		{"tools that are no list", chatML, user, ChatOptions{Tools: map[string]any{}}, []string{"tools", "list"}},
		{"documents that are no list", chatML, user, ChatOptions{Documents: "x"}, []string{"documents", "list"}},
	} {
		_, err := withTemplate(c.template).ApplyChatTemplate(c.messages, c.options)
		if err == nil {
			t.Errorf("%s: no error", c.name)
			continue
		}
		for _, w := range append(c.want, "tokenizer: ") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %q does not say %q", c.name, err, w)
			}
		}
	}
}

func TestChatErrorsHaveAType(t *testing.T) {
	turns := []Message{{"role": "user", "content": "x"}, {"role": "user", "content": "y"}}
	_, err := withTemplate(alternating).ApplyChatTemplate(turns, ChatOptions{})
	var e *ChatTemplateError
	if !errors.As(err, &e) || !e.Refused() || e.Message != 1 || e.Line != 2 || e.Reason != "roles must alternate" {
		t.Errorf("%#v", err)
	}
	_, err = withTemplate("{{ nope.x }}").ApplyChatTemplate(turns, ChatOptions{})
	if !errors.As(err, &e) || e.Refused() || e.Message != -1 || e.Kind != "UndefinedError" || e.Reason != "'nope' is undefined" {
		t.Errorf("%#v", err)
	}
}

func TestToolsChooseTheToolTemplate(t *testing.T) {
	tok := withTemplate("standard")
	tok.templates.named = map[string]string{"tool_use": "{{ tools | length }}"}
	for _, c := range []struct {
		tools any
		want  string
	}{{nil, "standard"}, {[]any{}, "0"}, {json.RawMessage(`[{}, {}]`), "2"}} {
		if text, err := tok.ApplyChatTemplate([]Message{{"role": "user", "content": "x"}}, ChatOptions{Tools: c.tools}); err != nil || text != c.want {
			t.Errorf("%v: %q, %v", c.tools, text, err)
		}
	}
}

func TestTemplatesSeeTheirVariables(t *testing.T) {
	tok := withTemplate("{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ mask_token }}|{{ cls_token is defined }}|{{ tools is none }}{{ documents is none }}|{{ add_generation_prompt }}|{{ enable_thinking }}|{{ strftime_now('%Y') }}|{{ messages }}")
	tok.special.set("mask_token", "<mask>")
	text, err := tok.ApplyChatTemplate([]Message{{"name": "n", "content": "c", "role": "user", "calls": map[string]any{"b": 1.0, "a": 1.5}, "raw": json.RawMessage(`{"b": 1.0, "a": null}`), "none": nil}}, ChatOptions{
		AddGenerationPrompt: true,
		Kwargs:              map[string]any{"enable_thinking": false, "eos_token": "<e>"},
		Now:                 func() time.Time { return time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC) },
	})
	want := "<s>|<e>||<mask>|False|TrueTrue|True|False|2024|[{'role': 'user', 'content': 'c', 'name': 'n', 'calls': {'a': 1.5, 'b': 1}, 'none': None, 'raw': {'b': 1.0, 'a': None}}]"
	if err != nil || text != want {
		t.Errorf("%v\n got %s\nwant %s", err, text, want)
	}
}

// Published templates stand under their models' licences in the project's shared test data.
func TestPublishedChatsEqualPython(t *testing.T) {
	const shared = "../../shared/testdata/"
	read := func(name string, v any) {
		data, err := os.ReadFile(shared + name)
		if os.IsNotExist(err) {
			t.Skip("no shared test data")
		}
		if err == nil {
			err = json.Unmarshal(data, v)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var published map[string]struct{ Src, BOS, EOS string }
	var cases [][2]json.RawMessage
	var gold map[string]struct{ Out *string }
	read("chat_templates.json", &published)
	read("chat_cases.json", &cases)
	read("chat_gold.json", &gold)
	n := 0
	for _, c := range cases {
		var name string
		var args struct {
			Messages       []map[string]json.RawMessage
			Tools          json.RawMessage
			Prompt         bool  `json:"add_generation_prompt"`
			EnableThinking *bool `json:"enable_thinking"`
		}
		if json.Unmarshal(c[0], &name) != nil || json.Unmarshal(c[1], &args) != nil {
			t.Fatalf("%s", c)
		}
		o := ChatOptions{AddGenerationPrompt: args.Prompt, Kwargs: map[string]any{}, Now: func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }}
		if args.Tools != nil {
			o.Tools = args.Tools
		}
		if args.EnableThinking != nil {
			o.Kwargs["enable_thinking"] = *args.EnableThinking
		}
		var messages []Message
		for _, fields := range args.Messages {
			m := Message{}
			for k, v := range fields {
				m[k] = v
			}
			messages = append(messages, m)
		}
		for template, p := range published {
			want, ok := gold[template+"/"+name]
			if !ok {
				continue
			}
			n++
			tok := &Tokenizer{templates: templates{standard: p.Src}, special: specialTokens{bos: p.BOS, eos: p.EOS}}
			text, err := tok.ApplyChatTemplate(messages, o)
			if (err != nil) != (want.Out == nil) || err == nil && text != *want.Out {
				t.Errorf("%s/%s: %q, %v, want %v", template, name, text, err, want.Out)
			}
		}
	}
	if n != 195 {
		t.Errorf("%d renders", n)
	}
}
