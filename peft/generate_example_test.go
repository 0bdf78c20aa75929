package peft_test

import (
	"context"
	"fmt"
	"log"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/tokenizer"
)

// storyteller is the small model in the repository's examples with an adapter that changes what it says.
func storyteller() (*peft.PeftModel, *tokenizer.Tokenizer) {
	const dir = "../examples/tiny"
	model, err := models.FromPretrained(context.Background(), dir, models.Options{DType: models.Float32})
	if err != nil {
		log.Fatal(err)
	}
	tok, err := tokenizer.FromPretrained(dir)
	if err != nil {
		log.Fatal(err)
	}
	p, err := peft.GetPeftModel(model, peft.LoraConfig{R: 1, LoraAlpha: 1, TargetModules: peft.Modules("v_proj"), InitLoraWeights: peft.InitFalse})
	if err != nil {
		log.Fatal(err)
	}
	return p, tok
}

func ExamplePeftModel_Generate() {
	p, tok := storyteller()
	defer p.Base().Close()
	defer p.Close()
	text, err := p.Generate(context.Background(), tok, "Once upon a time", models.GenerationConfig{MaxNewTokens: 10})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q\n", text)
	// Output: ", he said, \"I'm am a"
}

func ExamplePeftModel_GenerateBatch() {
	p, tok := storyteller()
	defer p.Base().Close()
	defer p.Close()
	texts, err := p.GenerateBatch(context.Background(), tok, []string{"The king", "Once upon a time"}, models.GenerationConfig{MaxNewTokens: 10})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q\n", texts)
	// Output: [" seems.''m afreme" ", he said, \"I'm am a"]
}

func ExamplePeftModel_Stream() {
	p, tok := storyteller()
	defer p.Base().Close()
	defer p.Close()
	for piece, err := range p.Stream(context.Background(), tok, "Once upon a time", models.GenerationConfig{MaxNewTokens: 10}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q ", piece)
	}
	// Output: "," " he" " said" "," " \"" "I" "'" "m" " am" " a"
}

func ExamplePeftModel_Perplexity() {
	p, tok := storyteller()
	defer p.Base().Close()
	defer p.Close()
	ids, err := tok.Encode("Once upon a time there was a king who had a daughter.", false)
	if err != nil {
		log.Fatal(err)
	}
	scores, err := p.LogProbs(context.Background(), [][]int{ids})
	if err != nil {
		log.Fatal(err)
	}
	perplexity, err := p.Perplexity(context.Background(), ids, models.PerplexityConfig{MaxLength: 8, Stride: 4})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d tokens, the second's log-probability %.1f, perplexity %.0f\n", len(ids), scores[0][0], perplexity)
	// Output: 18 tokens, the second's log-probability -3.2, perplexity 58
}
