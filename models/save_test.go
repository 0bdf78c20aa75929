package models

import (
	"context"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
)

func TestSavedModelLoadsWithTheSameLogits(t *testing.T) {
	ctx := context.Background()
	for _, name := range reference.Llamas {
		t.Run(name, func(t *testing.T) {
			ref := reference.LoadLlama(t, name)
			dir := t.TempDir()
			if err := mustLoad(t, ref.Dir, Options{}).SavePretrained(dir); err != nil {
				t.Fatal(err)
			}
			logits, err := mustLoad(t, dir, Options{}).Logits(ctx, ref.InputIDs[0], ref.AttentionMask[0])
			if err != nil {
				t.Fatal(err)
			}
			ref.CheckLogits(t, "base.logits", logits, 1e-5)
		})
	}
}

func TestSavedAsBFloat16LoadsRounded(t *testing.T) {
	ctx := context.Background()
	ref := reference.LoadLlama(t, "llama_a")
	dir := t.TempDir()
	if err := mustLoad(t, ref.Dir, Options{}).SaveAs(dir, BFloat16); err != nil {
		t.Fatal(err)
	}
	logits, err := mustLoad(t, dir, Options{}).Logits(ctx, ref.InputIDs[0], ref.AttentionMask[0])
	if err != nil {
		t.Fatal(err)
	}
	ref.CheckLogits(t, "base.logits", logits, 2e-2)
}
