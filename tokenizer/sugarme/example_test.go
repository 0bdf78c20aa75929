package sugarme_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/loris-ml/loris/tokenizer"
	"github.com/loris-ml/loris/tokenizer/sugarme"
	"github.com/sugarme/tokenizer/pretrained"
)

func ExampleNew() {
	lib, err := pretrained.FromFile("../testdata/gpt2/tokenizer.json")
	if err != nil {
		log.Fatal(err)
	}
	reference, err := tokenizer.FromPretrained("../testdata/gpt2")
	if err != nil {
		log.Fatal(err)
	}
	_, err = sugarme.New(lib, sugarme.Options{Reference: reference})
	var m *sugarme.MismatchError
	fmt.Println("refused:", errors.As(err, &m))
	tok, err := sugarme.New(lib, sugarme.Options{Reference: reference, Unchecked: true})
	if err != nil {
		log.Fatal(err)
	}
	ids, err := tok.Encode("the quick brown fox", false)
	fmt.Println(len(ids), err)
	// Output:
	// refused: true
	// 9 <nil>
}

func ExampleFromPretrained() {
	_, err := sugarme.FromPretrained("../testdata/llama3")
	fmt.Println(err != nil) // the library panics on this file
	// Output: true
}

func ExampleFromPretrainedUnchecked() {
	tok, err := sugarme.FromPretrainedUnchecked("../testdata/gpt2")
	if err != nil {
		log.Fatal(err)
	}
	text, err := tok.Decode([]int{64, 65}, false)
	fmt.Println(len(text), err)
	// Output: 2 <nil>
}
