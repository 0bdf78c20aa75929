package tokenizer_test

import (
	"fmt"
	"log"
	"slices"

	"github.com/loris-ml/loris/tokenizer"
)

var rhyme = []string{"how much wood would a woodchuck chuck", "if a woodchuck could chuck wood"}

func ExampleTrainBPE() {
	c := tokenizer.ByteLevelBPE()
	c.VocabSize, c.SpecialTokens, c.EOSToken = 270, []string{"<|endoftext|>"}, "<|endoftext|>"
	tok, err := tokenizer.TrainBPE(slices.Values(rhyme), c)
	if err != nil {
		log.Fatal(err)
	}
	e, err := tok.EncodeFull("a woodchuck<|endoftext|>", true)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(tok.VocabSize(), e.Tokens)
	// Output: 270 [a Ġwoodchuck <|endoftext|>]
}

func ExampleByteLevelBPE() {
	c := tokenizer.ByteLevelBPE()
	fmt.Println(len(c.InitialAlphabet), c.PreTokenizer)
	// Output: 256 {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}
}

func ExampleByteLevelAlphabet() {
	fmt.Printf("%c\n", tokenizer.ByteLevelAlphabet()[:4])
	// Output: [! " # $]
}

func ExampleSentencePieceBPE() {
	c := tokenizer.SentencePieceBPE()
	c.VocabSize = 290
	tok, err := tokenizer.TrainBPE(slices.Values(rhyme), c)
	if err != nil {
		log.Fatal(err)
	}
	e, err := tok.EncodeFull("wood é", true)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(e.Tokens)
	// Output: [<s> ▁wood ▁ <0xC3> <0xA9>]
}
