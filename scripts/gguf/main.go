// Command gguf writes a model, new adapters with random values on it, and both merged as GGUF files, with the logits that
// Loris computes for some token ids, for scripts/check_gguf.py.
//
//	go run ./scripts/gguf MODEL OUT [TYPE]
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"path/filepath"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: gguf MODEL OUT [TYPE]")
	}
	kind := ""
	if len(os.Args) > 3 {
		kind = os.Args[3]
	}
	if err := run(os.Args[1], os.Args[2], kind); err != nil {
		log.Fatal(err)
	}
}

func run(path, out, kind string) error {
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
	ids := []int{1, 5, 9, 17, 33, 2, 8, 40, 3, 7, 30, 11}
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
	o := models.GGUFOptions{Type: kind}
	if err := m.SaveGGUF(filepath.Join(out, "base.gguf"), o); err != nil {
		return err
	}
	if err := p.SaveGGUF(filepath.Join(out, "adapter.gguf")); err != nil {
		return err
	}
	if err := p.SaveMergedGGUF(filepath.Join(out, "merged.gguf"), o); err != nil {
		return err
	}
	raw, err := json.Marshal(map[string]any{"ids": ids, "base": base[0], "tuned": tuned[0]})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "logits.json"), raw, 0o644)
}
