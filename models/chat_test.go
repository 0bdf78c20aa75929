package models

import (
	"context"
	"strings"
	"testing"

	"github.com/loris-ml/loris/tokenizer"
)

func TestChatAnswersWhatItsTemplateRenders(t *testing.T) {
	m, tok, _ := storyteller(t, "")
	ctx, c := context.Background(), GenerationConfig{MaxNewTokens: 16, EOSTokenIDs: []int{}}
	messages := []tokenizer.Message{{"role": "user", "content": "What does a cat eat?"}}
	for _, test := range []struct {
		messages []tokenizer.Message
		o        tokenizer.ChatOptions
		prompt   string
	}{
		{messages, tokenizer.ChatOptions{}, "<|im_start|>user\nWhat does a cat eat?<|im_end|>\n<|im_start|>assistant\n"},
		{append(messages, tokenizer.Message{"role": "assistant", "content": "A cat"}), tokenizer.ChatOptions{ContinueFinalMessage: true},
			"<|im_start|>user\nWhat does a cat eat?<|im_end|>\n<|im_start|>assistant\nA cat"},
	} {
		ids, err := tok.Encode(test.prompt, false)
		if err != nil {
			t.Fatal(err)
		}
		out, err := m.GenerateIDs(ctx, nil, ids, c)
		if err != nil {
			t.Fatal(err)
		}
		want, err := tok.Decode(out, true)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Chat(ctx, m, tok, test.messages, test.o, c)
		if err != nil || got != want {
			t.Errorf("answered %q (%v), want %q", got, err, want)
		}
		var all string
		for piece, err := range StreamChat(ctx, m, tok, test.messages, test.o, c) {
			if err != nil {
				t.Fatal(err)
			}
			all += piece
		}
		if all != want {
			t.Errorf("streamed %q, want %q", all, want)
		}
	}
	for _, err := range StreamChat(ctx, m, tok, []tokenizer.Message{{"role": "user"}}, tokenizer.ChatOptions{Template: "{{ raise_exception('no') }}"}, c) {
		if err == nil || !strings.Contains(err.Error(), "no") {
			t.Errorf("a template that refuses gave %v", err)
		}
	}
}
