// Command generate continues prompts, or answers chat messages, with a model and optionally a LoRA adapter. One prompt is
// written as it comes; several are continued together.
//
//	go run ./examples/generate -prompt "Once upon a time"
//	go run ./examples/generate -prompt "The king" -prompt "The queen" -sample -temperature 0.8 -top-p 0.9 -stop .
//	go run ./examples/generate -model model.gguf -chat -prompt "What is Debian?" -adapter out/qlora/adapter
//	go run ./examples/generate -perplexity text.txt
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/tokenizer"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// generator is a model with or without an adapter.
type generator interface {
	models.Generator
	models.Scorer
}

// settings are the flags.
type settings struct {
	model, adapter, backend string
	prompts                 []string
	chat                    bool
	perplexity              string
	windows                 models.PerplexityConfig
	generation              models.GenerationConfig
}

func parse(args []string, stderr io.Writer) (s settings, err error) {
	f := flag.NewFlagSet("generate", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.model, "model", "examples/tiny", "folder with config.json, safetensors and tokenizer.json, or a .gguf file")
	f.StringVar(&s.adapter, "adapter", "", "folder with a PEFT adapter; \"\": none")
	f.StringVar(&s.backend, "backend", "", "\"\" (pure Go), xla:cpu or xla:cuda")
	list := func(to *[]string) func(string) error {
		return func(v string) error { *to = append(*to, v); return nil }
	}
	f.Func("prompt", "text to continue; may be given several times (default \"Once upon a time\")", list(&s.prompts))
	f.BoolVar(&s.chat, "chat", false, "prompts are users' messages; the model's chat template is applied")
	c := &s.generation
	f.IntVar(&c.MaxNewTokens, "tokens", 64, "at most so many new tokens")
	f.BoolVar(&c.DoSample, "sample", false, "sample instead of taking the likeliest token")
	f.Float64Var(&c.Temperature, "temperature", 0, "of sampling; 0: 1")
	f.IntVar(&c.TopK, "top-k", 0, "sample from so many of the likeliest tokens; 0: all")
	f.Float64Var(&c.TopP, "top-p", 0, "nucleus of sampling; 0: 1")
	f.Float64Var(&c.MinP, "min-p", 0, "least probability in sampling, as a share of the likeliest token's")
	f.Float64Var(&c.RepetitionPenalty, "repetition-penalty", 0, "above 1, tokens that were there become less likely; 0: 1")
	f.Uint64Var(&c.Seed, "seed", 0, "of sampling; several prompts draw from seeds one after the other")
	f.Func("stop", "text that ends the answer; may be given several times", list(&c.StopStrings))
	f.StringVar(&s.perplexity, "perplexity", "", "text file whose perplexity to print, instead of generating")
	f.IntVar(&s.windows.MaxLength, "max-length", 0, "tokens of a window of -perplexity; 0: the model's context")
	f.IntVar(&s.windows.Stride, "stride", 0, "tokens between windows of -perplexity; 0: 512, or the window if that is less")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if len(s.prompts) == 0 {
		s.prompts = []string{"Once upon a time"}
	}
	for i := range s.prompts {
		c.Seeds = append(c.Seeds, c.Seed+uint64(i))
	}
	return s, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	model, err := models.FromPretrained(ctx, s.model, models.Options{Backend: s.backend, Progress: stderr})
	if err != nil {
		return err
	}
	defer model.Close()
	tok, err := tokenizer.FromPretrained(s.model)
	if err != nil {
		return err
	}
	var g generator = model
	if s.adapter != "" {
		tuned, err := peft.FromPretrained(model, s.adapter)
		if err != nil {
			return err
		}
		defer tuned.Close()
		g = tuned
	}
	switch {
	case s.perplexity != "":
		return s.score(ctx, g, tok, stdout)
	case len(s.prompts) > 1:
		return s.batch(ctx, g, tok, stdout)
	}
	return s.stream(ctx, g, tok, stdout)
}

// stream writes the text after one prompt as it comes.
func (s settings) stream(ctx context.Context, g generator, tok *tokenizer.Tokenizer, stdout io.Writer) error {
	pieces := g.Stream(ctx, tok, s.prompts[0], s.generation)
	if s.chat {
		pieces = models.StreamChat(ctx, g, tok, message(s.prompts[0]), tokenizer.ChatOptions{}, s.generation)
	} else {
		fmt.Fprint(stdout, s.prompts[0])
	}
	for piece, err := range pieces {
		if err != nil {
			return err
		}
		fmt.Fprint(stdout, piece)
	}
	fmt.Fprintln(stdout)
	return nil
}

// batch continues several prompts together.
func (s settings) batch(ctx context.Context, g generator, tok *tokenizer.Tokenizer, stdout io.Writer) error {
	prompts, c := s.prompts, s.generation
	if s.chat {
		prompts, c.SkipSpecialTokens = nil, true
		for _, text := range s.prompts {
			p, err := tok.ApplyChatTemplate(message(text), tokenizer.ChatOptions{AddGenerationPrompt: true})
			if err != nil {
				return err
			}
			prompts = append(prompts, p)
		}
	}
	texts, err := g.GenerateBatch(ctx, tok, prompts, c)
	if err != nil {
		return err
	}
	for i, text := range texts {
		if !s.chat {
			text = s.prompts[i] + text
		}
		fmt.Fprintln(stdout, text)
	}
	return nil
}

// score writes the perplexity of a file.
func (s settings) score(ctx context.Context, g generator, tok *tokenizer.Tokenizer, stdout io.Writer) error {
	text, err := os.ReadFile(s.perplexity)
	if err != nil {
		return err
	}
	ids, err := tok.Encode(string(text), true)
	if err != nil {
		return fmt.Errorf("%s: %w", s.perplexity, err)
	}
	p, err := g.Perplexity(ctx, ids, s.windows)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "perplexity %.4f of %d tokens\n", p, len(ids))
	return nil
}

func message(text string) []tokenizer.Message {
	return []tokenizer.Message{{"role": "user", "content": text}}
}
