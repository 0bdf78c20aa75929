// Command gguf writes a model, new adapters with random values on it, and both merged as GGUF files, with the logits that
// Loris computes for some token ids, for scripts/check_gguf.py. Where TOKENIZER is given, or MODEL holds a tokenizer, it is in
// the files, its ids of a text beside the logits, and for check_text.py the perplexity of the licence and greedy texts with
// and without the adapters.
//
//	go run ./scripts/gguf MODEL OUT [TYPE [TOKENIZER]]
//
// For equal weights MODEL must hold what TYPE can: run it again on what it wrote.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"path/filepath"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/tokenizer"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: gguf MODEL OUT [TYPE [TOKENIZER]]")
	}
	kind, tokenizer := "", os.Args[1]
	if len(os.Args) > 3 {
		kind = os.Args[3]
	}
	if len(os.Args) > 4 {
		tokenizer = os.Args[4]
	}
	if err := run(os.Args[1], os.Args[2], kind, tokenizer); err != nil {
		log.Fatal(err)
	}
}

const text = "Hello world, it's 2026:\n\n  déjà vu, 日本語 🙂 don't x[0] += 1;"

func run(path, out, kind, tokenizerPath string) error {
	ctx := context.Background()
	m, err := models.FromPretrained(ctx, path, models.Options{DType: models.Float32, Backend: os.Getenv("LORIS_BACKEND")})
	if err != nil {
		return err
	}
	defer m.Close()
	p, err := peft.GetPeftModel(m, peft.LoraConfig{R: 4, LoraAlpha: 4, TargetModules: peft.AllLinear, InitLoraWeights: peft.InitFalse}, peft.Seed(7))
	if err != nil {
		return err
	}
	defer p.Close()
	ids := make([]int, 48) // longer than what the tiny fixtures with longrope were trained on
	for i := range ids {
		ids[i] = (7*i*i + 3*i + 1) % 60
	}
	base, err := m.Logits(ctx, [][]int{ids}, nil)
	if err != nil {
		return err
	}
	tuned, err := p.Logits(ctx, [][]int{ids}, nil)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	o, report := models.GGUFOptions{Type: kind}, map[string]any{"ids": ids, "base": base[0], "tuned": tuned[0]}
	if tok, err := tokenizer.FromPretrained(tokenizerPath); err == nil {
		o.Tokenizer, report["text"] = tok, text
		if report["text_ids"], err = tok.Encode(text, false); err != nil {
			return err
		}
		if err := writeTexts(ctx, filepath.Join(out, "texts.json"), kind, tok, m, p); err != nil {
			return err
		}
	} else {
		log.Print("without a tokenizer: ", err)
	}
	if err := m.SaveGGUF(filepath.Join(out, "base.gguf"), o); err != nil {
		return err
	}
	if err := p.SaveGGUF(filepath.Join(out, "adapter.gguf")); err != nil {
		return err
	}
	if err := p.SaveMergedGGUF(filepath.Join(out, "merged.gguf"), o); err != nil {
		return err
	}
	raw, err := json.Marshal(report)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "logits.json"), raw, 0o644)
}
