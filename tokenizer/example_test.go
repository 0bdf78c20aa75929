package tokenizer_test

import (
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/loris-ml/loris/tokenizer"
)

func ExampleFromPretrained() {
	tok, err := tokenizer.FromPretrained("testdata/stories260K")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(tok.VocabSize(), tok.BOSToken(), tok.BOSID(), tok.EOSIDs())
	// Output: 512 <s> 1 [2]
}

func ExampleTokenizer_Encode() {
	tok, err := tokenizer.FromPretrained("testdata/stories260K")
	if err != nil {
		log.Fatal(err)
	}
	ids, err := tok.Encode("Once upon a time", true)
	if err != nil {
		log.Fatal(err)
	}
	text, err := tok.Decode(ids, true)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ids)
	fmt.Println(text)
	// Output:
	// [1 403 407 261 378]
	// Once upon a time
}

func ExampleTokenizer_EncodeFull() {
	tok, err := tokenizer.FromPretrained("testdata/stories260K")
	if err != nil {
		log.Fatal(err)
	}
	text := "hello é!"
	e, err := tok.EncodeFull(text, false)
	if err != nil {
		log.Fatal(err)
	}
	for i, o := range e.Offsets {
		fmt.Printf("%s=%q ", e.Tokens[i], text[o[0]:o[1]])
	}
	fmt.Println()
	// Output: ▁he="he" ll="ll" o="o" ▁=" " é="é" !="!"
}

func ExampleTokenizer_ApplyChatTemplate() {
	tok, err := tokenizer.FromPretrained("testdata/tiny.gguf")
	if err != nil {
		log.Fatal(err)
	}
	text, err := tok.ApplyChatTemplate([]tokenizer.Message{{"role": "user", "content": "Hi"}}, tokenizer.ChatOptions{AddGenerationPrompt: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(text)
	// Output:
	// <|im_start|>user
	// Hi<|im_end|>
	// <|im_start|>assistant
}

func ExampleTokenizer_ApplyChatTemplateSpans() {
	tok, err := tokenizer.FromPretrained("testdata/tiny.gguf")
	if err != nil {
		log.Fatal(err)
	}
	text, spans, err := tok.ApplyChatTemplateSpans([]tokenizer.Message{
		{"role": "user", "content": "2+2?"},
		{"role": "assistant", "content": "4"},
	}, tokenizer.ChatOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range spans {
		fmt.Println(text[s[0]:s[1]])
	}
	// Output: 4<|im_end|>
}

func ExampleChatTemplateError() {
	tok, err := tokenizer.FromPretrained("testdata/tiny.gguf")
	if err != nil {
		log.Fatal(err)
	}
	_, err = tok.ApplyChatTemplate([]tokenizer.Message{
		{"role": "user", "content": "Hi"},
		{"role": "assistant", "content": []any{"parts"}},
	}, tokenizer.ChatOptions{})
	var e *tokenizer.ChatTemplateError
	if errors.As(err, &e) {
		fmt.Println(e.Message, e.Kind, e.Refused())
		fmt.Println(e.Reason)
	}
	// Output:
	// 1 TypeError false
	// can only concatenate str (not "list") to str
}

func ExampleTokenizer_SavePretrained() {
	tok, err := tokenizer.FromPretrained("testdata/tiny.gguf")
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "tokenizer")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := tok.SavePretrained(dir); err != nil {
		log.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range entries {
		fmt.Println(e.Name())
	}
	// Output:
	// chat_template.jinja
	// tokenizer.json
	// tokenizer_config.json
}

func ExampleTokenizer_GGUFMetadata() {
	tok, err := tokenizer.FromPretrained("testdata/stories260K")
	if err != nil {
		log.Fatal(err)
	}
	keys, err := tok.GGUFMetadata(0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(keys["tokenizer.ggml.model"], keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.add_bos_token"])
	// Output: llama 1 true
}
