package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"
)

func TestItContinuesAPromptAndAnswersAMessage(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	for _, args := range [][]string{
		{"-prompt", "Once upon a time", "-tokens", "12"},
		{"-prompt", "What does a cat eat?", "-chat", "-tokens", "12"},
		{"-prompt", "The king", "-tokens", "8", "-sample", "-temperature", "0.8", "-top-k", "40", "-top-p", "0.9", "-min-p", "0.01", "-seed", "3"},
		{"-prompt", "The king", "-prompt", "What does a cat eat?", "-tokens", "8", "-repetition-penalty", "1.2"},
		{"-prompt", "The king", "-prompt", "What does a cat eat?", "-tokens", "8", "-chat"},
		{"-perplexity", "NOTICE", "-max-length", "64", "-stride", "32"},
	} {
		var first string
		for range 2 {
			var stdout, stderr bytes.Buffer
			if err := run(context.Background(), args, &stdout, &stderr); err != nil {
				t.Fatalf("%v: %v", args, err)
			}
			text := stdout.String()
			if len(strings.TrimSpace(text)) < 5 {
				t.Errorf("%v: wrote %q", args, text)
			}
			if first == "" {
				first = text
			} else if text != first {
				t.Errorf("%v: wrote %q, then %q", args, first, text)
			}
		}
	}
}

func TestSamplingFlagsWithoutSampleAreRefused(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	var stdout, stderr bytes.Buffer
	err := run(context.Background(), []string{"-temperature", "0.5"}, &stdout, &stderr)
	if err == nil || !strings.Contains(err.Error(), "DoSample") {
		t.Errorf("got error %v", err)
	}
}

func TestTextEndsBeforeTheStopFlag(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	texts := map[string]string{}
	for _, stop := range []string{"not there", " a"} {
		var stdout, stderr bytes.Buffer
		if err := run(context.Background(), []string{"-tokens", "12", "-stop", stop}, &stdout, &stderr); err != nil {
			t.Fatal(err)
		}
		texts[stop] = strings.TrimPrefix(stdout.String(), "Once upon a time")
	}
	whole, _, found := strings.Cut(texts["not there"], " a")
	if !found || texts[" a"] != whole+"\n" {
		t.Errorf("wrote %q, without stops %q", texts[" a"], texts["not there"])
	}
}
