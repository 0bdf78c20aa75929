package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/tokenizer"
)

// question is a line of the questions file.
type question struct {
	Question string `json:"question"`
	Expect   string `json:"expect"` // what a right answer contains
}

func (q question) right(answer string) bool {
	return strings.Contains(strings.ToLower(answer), strings.ToLower(q.Expect))
}

func readQuestions(path string) (all []question, err error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("questions: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		var q question
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil || q.Question == "" || q.Expect == "" {
			return nil, fmt.Errorf(`%s line %d: want {"question": …, "expect": …}, both filled in: %w`, path, n, errors.Join(err))
		}
		all = append(all, q)
	}
	return all, lines.Err()
}

// answer asks the model every question, greedily.
func answer(ctx context.Context, model *peft.PeftModel, tok *tokenizer.Tokenizer, questions []question) ([]string, error) {
	var answers []string
	for _, q := range questions {
		prompt, err := tok.ApplyChatTemplate([]tokenizer.Message{{"role": "user", "content": q.Question}}, tokenizer.ChatOptions{AddGenerationPrompt: true})
		if err != nil {
			return nil, err
		}
		text, err := model.Generate(ctx, tok, prompt, models.GenerationConfig{MaxNewTokens: 40, SkipSpecialTokens: true})
		if err != nil {
			return nil, err
		}
		answers = append(answers, text)
	}
	return answers, nil
}
