package tokenizer_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/loris-ml/loris/tokenizer"
)

func load(dir string) *tokenizer.Tokenizer {
	tok, err := tokenizer.FromPretrained(dir)
	if err != nil {
		log.Fatal(err)
	}
	return tok
}

func ExampleTokenizer_EncodePair() {
	tok := load("testdata/bert")
	e, err := tok.EncodePair("What is it?", "A dog.", true)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(e.Tokens)
	fmt.Println(e.TypeIDs)
	fmt.Println(e.SequenceIDs)
	// Output:
	// [[CLS] wh ##at is it ? [SEP] a dog . [SEP]]
	// [0 0 0 0 0 0 0 1 1 1 1]
	// [-1 0 0 0 0 0 -1 1 1 1 -1]
}

func ExampleTokenizer_EncodeInput() {
	tok := load("testdata/bert")
	e, err := tok.EncodeInput(tokenizer.Text("the quick brown fox over the dog"), tokenizer.EncodeOptions{
		Truncation:  &tokenizer.Truncation{MaxLength: 6, Stride: 1},
		Overflowing: true,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(e.Tokens)
	for _, o := range e.Overflowing {
		fmt.Println(o.Tokens)
	}
	// Output:
	// [[CLS] the qu ##ic ##k [SEP]]
	// [[CLS] ##k br ##ow ##n [SEP]]
	// [[CLS] ##n fo ##x over [SEP]]
	// [[CLS] over the dog [SEP]]
}

func ExampleTokenizer_EncodeBatch() {
	tok := load("testdata/bert")
	if err := tok.SetSpecialToken("pad_token", "[MASK]"); err != nil {
		log.Fatal(err)
	}
	padding, err := tok.NewPadding(0) // to the longest
	if err != nil {
		log.Fatal(err)
	}
	all, err := tok.EncodeBatch(context.Background(), []tokenizer.Input{tokenizer.Text("the dog"), tokenizer.Text("the lazy dog")},
		tokenizer.EncodeOptions{Padding: padding})
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range all {
		fmt.Println(e.IDs, e.AttentionMask)
	}
	// Output:
	// [1 168 226 2 3 3 3] [1 1 1 1 0 0 0]
	// [1 168 258 152 145 226 2] [1 1 1 1 1 1 1]
}

func ExampleWords() {
	tok := load("testdata/bert")
	e, err := tok.EncodeInput(tokenizer.Words([]string{"naïve", "reading"}), tokenizer.EncodeOptions{NoSpecialTokens: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(e.Tokens, e.WordIDs)
	// Output: [na ##iv ##e re ##a ##d ##ing] [0 0 0 1 1 1 1]
}

func ExampleText() {
	e, err := load("testdata/bert").EncodeInput(tokenizer.Text("the dog"), tokenizer.EncodeOptions{})
	fmt.Println(e.Tokens, err)
	// Output: [[CLS] the dog [SEP]] <nil>
}

func ExamplePair() {
	e, err := load("testdata/bert").EncodeInput(tokenizer.Pair("the dog runs over the fox", "it is"), tokenizer.EncodeOptions{
		Truncation: &tokenizer.Truncation{MaxLength: 8, Strategy: tokenizer.OnlyFirst, Direction: tokenizer.Left},
	})
	fmt.Println(e.Tokens, err)
	// Output: [[CLS] the fo ##x [SEP] it is [SEP]] <nil>
}

func ExampleWordsPair() {
	e, err := load("testdata/bert").EncodeInput(tokenizer.WordsPair([]string{"the", "dog"}, []string{"it", "is"}), tokenizer.EncodeOptions{})
	fmt.Println(e.WordIDs, e.SequenceIDs, err)
	// Output: [-1 0 1 -1 0 1 -1] [-1 0 0 -1 1 1 -1] <nil>
}

func ExampleEncoding_TokenAt() {
	text := "The naïve dog"
	e, err := load("testdata/bert").EncodeFull(text, true)
	if err != nil {
		log.Fatal(err)
	}
	token, _ := e.TokenAt(len("The na"), 0)
	start, end, _ := e.WordBytes(e.WordIDs[token], 0)
	lo, hi, _ := e.WordTokens(e.WordIDs[token], 0)
	fmt.Println(e.Tokens[token], text[start:end], e.Tokens[lo:hi])
	// Output: ##iv naïve [na ##iv ##e]
}

func ExampleTokenizer_FileOptions() {
	tok := load("testdata/bert")
	if err := tok.SetTruncation(tok.NewTruncation(4)); err != nil {
		log.Fatal(err)
	}
	if err := tok.SetPadding(&tokenizer.Padding{MultipleOf: 8, ID: 3, Token: "[MASK]"}); err != nil {
		log.Fatal(err)
	}
	e, err := tok.EncodeInput(tokenizer.Text("the lazy dog"), tok.FileOptions())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(e.Tokens)
	fmt.Println(tok.Truncation().MaxLength, tok.Padding().MultipleOf, len(e.Overflowing))
	// Output:
	// [[CLS] the la [SEP] [MASK] [MASK] [MASK] [MASK]]
	// 4 8 2
}

func ExampleTokenizer_DecodeBatch() {
	tok := load("testdata/stories260K")
	texts, err := tok.DecodeBatch(context.Background(), [][]int{{1, 403, 407}, {261, 378}}, true)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q\n", texts)
	// Output: ["Once upon" "a time"]
}

func ExampleDecodeStream() {
	tok := load("testdata/stories260K")
	ids, err := tok.Encode("Once upon a 日", true)
	if err != nil {
		log.Fatal(err)
	}
	stream := tok.NewDecodeStream(true)
	for _, id := range ids {
		text, err := stream.Step(id)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q ", text)
	}
	rest, err := stream.Flush()
	fmt.Printf("%q %v\n", rest, err)
	// Output: "" "Once" " upon" " a" " " "" "" "日" "" <nil>
}

func ExampleTokenizer_AddTokens() {
	tok := load("testdata/bert")
	next := tok.NextTokenID()
	n, err := tok.AddTokens(tokenizer.AddedToken{Content: "<tool>", LStrip: true}, tokenizer.AddedToken{Content: "fox", SingleWord: true})
	if err != nil {
		log.Fatal(err)
	}
	ids, err := tok.Encode("the <tool>dog", false)
	fmt.Println(n, next, ids, tok.AddedTokens()[next].Content, err)
	// Output: 2 300 [168 300 226] <tool> <nil>
}

func ExampleTokenizer_AddSpecialTokens() {
	tok := load("testdata/bert")
	if _, err := tok.AddSpecialTokens("[PAD]"); err != nil {
		log.Fatal(err)
	}
	if err := tok.SetSpecialToken("pad_token", "[PAD]"); err != nil {
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
	again := load(dir)
	fmt.Println(again.PadToken(), again.PadID(), again.VocabSize(), again.SpecialTokens())
	// Output: [PAD] 300 301 map[pad_token:[PAD]]
}

func ExampleTokenizer_SetSpecialToken() {
	tok := load("testdata/stories260K")
	if err := tok.SetSpecialToken("pad_token", tok.EOSToken()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(tok.PadToken(), tok.PadID())
	fmt.Println(tok.SetSpecialToken("pad_token", "[PAD]"))
	// Output:
	// </s> 2
	// tokenizer: SetSpecialToken: pad_token: "[PAD]" is not in the vocabulary; add it with AddSpecialTokens
}

func ExampleTokenizer_SpecialTokens() {
	fmt.Println(load("testdata/stories260K").SpecialTokens())
	// Output: map[bos_token:<s> eos_token:</s> unk_token:<unk>]
}

func ExampleTokenizer_Decode() {
	tok := load("testdata/stories260K")
	for _, skip := range []bool{false, true} {
		text, err := tok.Decode([]int{1, 403, 407}, skip)
		fmt.Printf("%q %v\n", text, err)
	}
	// Output:
	// "<s> Once upon" <nil>
	// "Once upon" <nil>
}

func ExampleTokenizer_TokenToID() {
	tok := load("testdata/stories260K")
	id, ok := tok.TokenToID("▁upon")
	fmt.Println(id, ok)
	token, ok := tok.IDToToken(id)
	fmt.Println(token, ok, tok.IsSpecial(id))
	// Output:
	// 407 true
	// ▁upon true false
}

func ExampleTokenizer_NewTruncation() {
	tok := load("testdata/stories260K")
	e, err := tok.EncodeInput(tokenizer.Text("Once upon a time"), tokenizer.EncodeOptions{Truncation: tok.NewTruncation(3)})
	fmt.Println(e.Tokens, err)
	// Output: [<s> ▁Once ▁upon] <nil>
}

func ExampleTokenizer_NewPadding() {
	tok := load("testdata/stories260K")
	if err := tok.SetSpecialToken("pad_token", "</s>"); err != nil {
		log.Fatal(err)
	}
	padding, err := tok.NewPadding(6)
	if err != nil {
		log.Fatal(err)
	}
	padding.Direction = tokenizer.Left
	e, err := tok.EncodeInput(tokenizer.Text("Once upon a"), tokenizer.EncodeOptions{Padding: padding})
	fmt.Println(e.Tokens, e.AttentionMask, err)
	// Output: [</s> </s> <s> ▁Once ▁upon ▁a] [0 0 1 1 1 1] <nil>
}

func ExampleUnsupportedError() {
	dir, err := os.MkdirTemp("", "tokenizer")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "tokenizer.json")
	if err := os.WriteFile(file, []byte(`{"model": {"type": "BPE", "vocab": {}, "merges": []}, "decoder": {"type": "Rot13"}}`), 0o666); err != nil {
		log.Fatal(err)
	}
	_, err = tokenizer.FromPretrained(dir)
	var u *tokenizer.UnsupportedError
	if errors.As(err, &u) {
		fmt.Println(u.File == file, u.Field, u.Component)
	}
	// Output: true decoder Rot13
}
