// Command generate continues a prompt, or answers a chat message, with a model and optionally a LoRA adapter.
//
//	go run ./examples/generate -prompt "Once upon a time"
//	go run ./examples/generate -model model.gguf -chat -prompt "What is Debian?" -adapter out/qlora/adapter
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
	Generate(ctx context.Context, tok models.Tokenizer, prompt string, c models.GenerationConfig) (string, error)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("generate", flag.ContinueOnError)
	f.SetOutput(stderr)
	path := f.String("model", "examples/tiny", "folder with config.json, safetensors and tokenizer.json, or a .gguf file")
	adapter := f.String("adapter", "", "folder with a PEFT adapter; \"\": none")
	backend := f.String("backend", "", "\"\" (pure Go), xla:cpu or xla:cuda")
	prompt := f.String("prompt", "Once upon a time", "text to continue")
	chat := f.Bool("chat", false, "the prompt is a user's message; the model's chat template is applied")
	c := models.GenerationConfig{}
	f.IntVar(&c.MaxNewTokens, "tokens", 64, "at most so many new tokens")
	f.BoolVar(&c.DoSample, "sample", false, "sample instead of taking the likeliest token")
	f.Float64Var(&c.Temperature, "temperature", 0, "of sampling; 0: 1")
	f.Float64Var(&c.TopP, "top-p", 0, "nucleus of sampling; 0: 1")
	f.Uint64Var(&c.Seed, "seed", 0, "of sampling")
	if err := f.Parse(args); err != nil {
		return err
	}
	model, err := models.FromPretrained(ctx, *path, models.Options{Backend: *backend, Progress: stderr})
	if err != nil {
		return err
	}
	defer model.Close()
	tok, err := tokenizer.FromPretrained(*path)
	if err != nil {
		return err
	}
	var g generator = model
	if *adapter != "" {
		tuned, err := peft.FromPretrained(model, *adapter)
		if err != nil {
			return err
		}
		defer tuned.Close()
		g = tuned
	}
	text := *prompt
	if *chat {
		c.SkipSpecialTokens = true
		if text, err = tok.ApplyChatTemplate([]tokenizer.Message{{"role": "user", "content": text}}, tokenizer.ChatOptions{AddGenerationPrompt: true}); err != nil {
			return err
		}
	}
	more, err := g.Generate(ctx, tok, text, c)
	if err != nil {
		return err
	}
	if !*chat {
		fmt.Fprint(stdout, *prompt)
	}
	fmt.Fprintln(stdout, more)
	return nil
}
