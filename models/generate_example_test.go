package models_test

import (
	"context"
	"fmt"
	"log"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/tokenizer"
)

// tiny is the small model in the repository's examples, and its tokenizer.
func tiny() (*models.CausalLM, *tokenizer.Tokenizer) {
	const dir = "../examples/tiny"
	model, err := models.FromPretrained(context.Background(), dir, models.Options{DType: models.Float32})
	if err != nil {
		log.Fatal(err)
	}
	tok, err := tokenizer.FromPretrained(dir)
	if err != nil {
		log.Fatal(err)
	}
	return model, tok
}

func ExampleCausalLM_Generate() {
	model, tok := tiny()
	defer model.Close()
	text, err := model.Generate(context.Background(), tok, "Once upon a time", models.GenerationConfig{MaxNewTokens: 40, StopStrings: []string{"."}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(text)
	// Output: that I had not a bit of business
}

func ExampleCausalLM_GenerateBatch() {
	model, tok := tiny()
	defer model.Close()
	prompts := []string{"The king", "Once upon a time there was"}
	texts, err := model.GenerateBatch(context.Background(), tok, prompts, models.GenerationConfig{MaxNewTokens: 8})
	if err != nil {
		log.Fatal(err)
	}
	for i, text := range texts {
		fmt.Printf("%s|%s\n", prompts[i], text)
	}
	// Output:
	// The king| liings, and the box
	// Once upon a time there was| a little time for some time. It
}

func ExampleCausalLM_Stream() {
	model, tok := tiny()
	defer model.Close()
	for piece, err := range model.Stream(context.Background(), tok, "Once upon a time", models.GenerationConfig{MaxNewTokens: 6}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q ", piece)
	}
	// Output: " that" " I" " had" " not" " a" " b"
}

func ExampleCausalLM_GenerateBatchIDs() {
	model, _ := tiny()
	defer model.Close()
	// Two draws after one prompt.
	out, err := model.GenerateBatchIDs(context.Background(), nil, [][]int{{50, 60}, {50, 60}}, models.GenerationConfig{
		MaxNewTokens: 4, DoSample: true, Temperature: 0.7, TopK: 50, TopP: 0.9, Seeds: []uint64{1, 2},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(out), len(out[0]))
	// Output: 2 4
}

func ExampleCausalLM_LogProbs() {
	model, tok := tiny()
	defer model.Close()
	var rows [][]int
	for _, text := range []string{"the king and the queen", "queen the and king the"} {
		ids, err := tok.Encode(text, false)
		if err != nil {
			log.Fatal(err)
		}
		rows = append(rows, ids)
	}
	scores, err := model.LogProbs(context.Background(), rows)
	if err != nil {
		log.Fatal(err)
	}
	var sums [2]float64
	for i, row := range scores {
		for _, v := range row {
			sums[i] += v
		}
	}
	fmt.Println(sums[0] > sums[1])
	// Output: true
}

func ExampleCausalLM_Perplexity() {
	model, tok := tiny()
	defer model.Close()
	ids, err := tok.Encode("Once upon a time there was a king who had a daughter, and she was very beautiful.", false)
	if err != nil {
		log.Fatal(err)
	}
	p, err := model.Perplexity(context.Background(), ids, models.PerplexityConfig{MaxLength: 16, Stride: 8})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.0f\n", p)
	// Output: 14
}

func ExampleChat() {
	model, tok := tiny()
	defer model.Close()
	messages := []tokenizer.Message{{"role": "user", "content": "What does a cat eat?"}}
	answer, err := models.Chat(context.Background(), model, tok, messages, tokenizer.ChatOptions{}, models.GenerationConfig{MaxNewTokens: 24})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer)
	// Output: The monkey eats bread.
}

func ExampleStreamChat() {
	model, tok := tiny()
	defer model.Close()
	messages := []tokenizer.Message{{"role": "user", "content": "What does a cat eat?"}}
	for piece, err := range models.StreamChat(context.Background(), model, tok, messages, tokenizer.ChatOptions{}, models.GenerationConfig{MaxNewTokens: 24}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(piece)
	}
	// Output: The monkey eats bread.
}
