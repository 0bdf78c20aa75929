package tokenizer

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// spansGolden is what TRL's chat templates make of conversations; the package jinja keeps it.
type spansGolden struct {
	Special   map[string]string
	Templates map[string]string
	Cases     map[string]map[string]json.RawMessage
	Renders   map[string]struct {
		OK    *string
		Err   string
		Spans [][2]int
	}
}

func readSpansGolden(t *testing.T) (g spansGolden) {
	t.Helper()
	readGzip(t, "../internal/jinja/testdata/trl.golden.json.gz", &g)
	return g
}

func readGzip(t *testing.T, path string, v any) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(v); err != nil {
		t.Fatal(err)
	}
}

func (g spansGolden) tokenizer(template string) *Tokenizer {
	s := g.Special
	return &Tokenizer{
		templates: templates{standard: g.Templates[template]},
		special:   specialTokens{bos: s["bos_token"], eos: s["eos_token"], pad: s["pad_token"], unk: s["unk_token"]},
	}
}

// conversation returns the arguments of a case, with the order of keys as written below the messages' own.
func (g spansGolden) conversation(t *testing.T, name string) (messages []Message, o ChatOptions) {
	t.Helper()
	o.Now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
	o.Kwargs = map[string]any{}
	for key, raw := range g.Cases[name] {
		switch key {
		case "messages":
			var list []map[string]json.RawMessage
			if err := json.Unmarshal(raw, &list); err != nil {
				t.Fatal(err)
			}
			for _, fields := range list {
				m := Message{}
				for k, v := range fields {
					m[k] = v
				}
				messages = append(messages, m)
			}
		case "add_generation_prompt":
			o.AddGenerationPrompt = string(raw) == "true"
		case "tools":
			o.Tools = raw
		case "documents":
			o.Documents = raw
		default:
			o.Kwargs[key] = raw
		}
	}
	return messages, o
}

func TestChatsEqualTransformersOverTRLTemplates(t *testing.T) {
	g := readSpansGolden(t)
	for key, want := range g.Renders {
		name, situation, _ := strings.Cut(key, "/")
		messages, o := g.conversation(t, situation)
		tok := g.tokenizer(name)
		text, err := tok.ApplyChatTemplate(messages, o)
		switch {
		case want.OK == nil && err == nil:
			t.Errorf("%s: rendered %q, Python raises %s", key, text, want.Err)
		case want.OK != nil && err != nil:
			t.Errorf("%s: %v", key, err)
		case want.OK != nil && text != *want.OK:
			t.Errorf("%s:\n got %q\nwant %q", key, text, *want.OK)
		}
		if want.OK == nil || len(want.Spans) == 0 {
			continue
		}
		_, spans, err := tok.ApplyChatTemplateSpans(messages, o)
		if err != nil || !slices.Equal(joined(text, spans), joined(text, want.Spans)) {
			t.Errorf("%s: spans %v, want %v, %v", key, spans, want.Spans, err)
		}
	}
}

// joined returns the texts of spans, with neighbours as one and without space at the end.
func joined(text string, spans [][2]int) []string {
	var out []string
	end := -1
	for _, s := range spans {
		if s[0] == end {
			out[len(out)-1] += text[s[0]:s[1]]
		} else {
			out = append(out, text[s[0]:s[1]])
		}
		end = s[1]
	}
	for i, s := range out {
		out[i] = strings.TrimRightFunc(s, isTemplateSpace)
	}
	return slices.DeleteFunc(out, func(s string) bool { return s == "" })
}

// TRL has templates with {% generation %} beside those of the models. Where both render the same text, the spans that are
// found without the marks are the marked ones, less the end of the generation prompt that some mark too (such as a forced
// <think>), or it is an error that they cannot be found.
func TestSpansFoundWithoutMarksAreTheMarkedOnes(t *testing.T) {
	g := readSpansGolden(t)
	found := map[string]int{}
	equal, unknown := 0, 0
	for key, marked := range g.Renders {
		training, situation, _ := strings.Cut(key, "/")
		name, ok := strings.CutSuffix(training, "_training")
		plain := g.Renders[name+"/"+situation]
		switch {
		case !ok || plain.OK == nil || marked.OK == nil || *plain.OK != *marked.OK:
			continue
		case name == "glm4moe": // marks the header of the next turn, which ends GLM's turns
			continue
		case strings.HasPrefix(name, "deepseek") && situation == "assistant first": // marks the header of the first turn
			continue
		case name == "muse_glimmer" && situation == "bad alternation": // marks two turns as one
			continue
		case name == "diffusion_gemma" && g.Cases[situation]["tools"] != nil: // does not mark what asks for a tool's answer
			continue
		}
		messages, o := g.conversation(t, situation)
		text, spans, err := g.tokenizer(name).ApplyChatTemplateSpans(messages, o)
		var e *ChatTemplateError
		if errors.As(err, &e) && e.Kind == kindSpans {
			unknown++
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		if got, want := joined(text, spans), joined(text, marked.Spans); !slices.EqualFunc(got, want, func(got, want string) bool { return strings.HasSuffix(want, got) }) {
			t.Errorf("%s:\n got %q\nwant %q", key, got, want)
		}
		equal++
		found[name]++
	}
	if equal < 500 || len(found) < 25 || unknown > equal/2 {
		t.Errorf("only %d conversations of %d templates, %d without spans", equal, len(found), unknown)
	}
}

func TestSpansOfTemplatesWithoutMarks(t *testing.T) {
	user, answer := Message{"role": "user", "content": "q"}, Message{"role": "assistant", "content": " a\n"}
	for _, c := range []struct {
		name, template string
		messages       []Message
		options        ChatOptions
		want           []string
	}{
		{"end of turn is a token", chatML, []Message{user, answer, user, answer}, ChatOptions{AddGenerationPrompt: true}, []string{" a\n<|im_end|>", " a\n<|im_end|>"}},
		{"end of turn is a newline", "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}", []Message{user, answer, user}, ChatOptions{}, []string{"a\n"}},
		{"no end of turn", "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}", []Message{user, answer}, ChatOptions{}, []string{" a\n"}},
		{"the user's turn prompts", "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content | trim }} </s>{% endif %}{% endfor %}", []Message{user, answer, user, answer}, ChatOptions{}, []string{" a </s>", " a </s>"}},
		{"no generation prompt", chatMLTurns, []Message{user, answer, answer}, ChatOptions{}, []string{" a\n<|im_end|>", " a\n<|im_end|>"}},
		{"assistant first, after a default system message", "{% if messages[0].role != 'system' %}S\n{% endif %}" + chatML, []Message{answer, user}, ChatOptions{}, []string{" a\n<|im_end|>"}},
		{"content in parts", "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}</s>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
			[]Message{{"role": "user", "content": []any{map[string]any{"text": "q"}}}, {"role": "assistant", "content": []any{map[string]any{"text": "a"}, map[string]any{"text": "b "}}}}, ChatOptions{}, []string{"ab </s>"}},
		{"nobody answers", chatML, []Message{user}, ChatOptions{AddGenerationPrompt: true}, nil},
		{"open turn", chatML, []Message{user, answer, user, {"role": "assistant", "content": "open "}}, ChatOptions{ContinueFinalMessage: true}, []string{" a\n<|im_end|>", "open "}},
		{"open turn without text", chatML, []Message{user, {"role": "assistant", "content": ""}}, ChatOptions{ContinueFinalMessage: true}, nil},
		{"open turn that is trimmed", strings.ReplaceAll(chatML, "message['content']", "message['content'] | trim"), []Message{user, {"role": "assistant", "content": " open \n"}}, ChatOptions{ContinueFinalMessage: true}, []string{"open"}},
		{"marked open turn", "{% for m in messages %}{{ m.role }}:{% generation %}{{ m.content }}</s>{% endgeneration %}\n{% endfor %}", []Message{answer, answer}, ChatOptions{ContinueFinalMessage: true}, []string{" a\n</s>", " a\n"}},
	} {
		text, spans, err := withTemplate(c.template).ApplyChatTemplateSpans(c.messages, c.options)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var got []string
		for _, s := range spans {
			got = append(got, text[s[0]:s[1]])
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q of %q, want %q", c.name, got, text, c.want)
		}
	}
}

func TestSpansThatCannotBeTold(t *testing.T) {
	user, answer := Message{"role": "user", "content": "q"}, Message{"role": "assistant", "content": "a"}
	for _, c := range []struct {
		name, template string
		messages       []Message
		want           []string
	}{
		{"the last turn is rendered in another way", "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ '</s>' if loop.last else ';' }}{% endfor %}", []Message{user, answer, user}, []string{"messages[1]", "up to and with this turn", `"</s>"`, `";user:q</s>"`, "{% generation %}"}},
		{"the prompt is no part of the turn", "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}assistant:<think>{% endif %}", []Message{user, answer}, []string{"messages[1]", "before this turn", `"<think>"`, `"a;"`}},
		{"a beginning is refused", "{% if messages[-1].role == 'assistant' %}{{ raise_exception('ask first') }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}", []Message{answer, user}, []string{"messages[0]", "cannot be rendered alone", "ask first"}},
		{"marks inside a macro", "{% macro m(x) %}{% generation %}{{ x }}{% endgeneration %}{% endmacro %}{{ m('y') }}", []Message{user}, []string{"inside a macro"}},
	} {
		_, _, err := withTemplate(c.template).ApplyChatTemplateSpans(c.messages, ChatOptions{})
		var e *ChatTemplateError
		if !errors.As(err, &e) || e.Refused() {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not say %q", c.name, err, w)
			}
		}
	}
}

func TestContinuedMessagesEqualTransformers(t *testing.T) {
	var g struct {
		Special map[string]string
		Cases   map[string][]Message
		Renders map[string]struct {
			OK  *string
			Err string
		}
	}
	readGzip(t, "testdata/continued.golden.json.gz", &g)
	templates := readSpansGolden(t)
	if len(g.Renders) < 800 {
		t.Fatalf("only %d renders", len(g.Renders))
	}
	for key, want := range g.Renders {
		name, situation, _ := strings.Cut(key, "/")
		_, o := templates.conversation(t, "user")
		o.AddGenerationPrompt, o.ContinueFinalMessage = false, true
		text, err := templates.tokenizer(name).ApplyChatTemplate(g.Cases[situation], o)
		switch {
		case want.OK == nil && err == nil:
			t.Errorf("%s: rendered %q, Python raises %s", key, text, want.Err)
		case want.OK != nil && err != nil:
			t.Errorf("%s: %v, want %q", key, err, *want.OK)
		case want.OK != nil && text != *want.OK:
			t.Errorf("%s:\n got %q\nwant %q", key, text, *want.OK)
		}
	}
}
