package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/sft"
	"github.com/loris-ml/loris/tokenizer"
)

// question is a line of the questions file.
type question struct {
	Question string
	Expect   string // what a right answer contains
}

func (q question) right(answer string) bool {
	return strings.Contains(strings.ToLower(answer), strings.ToLower(q.Expect))
}

func readQuestions(path string) (all []question, err error) {
	if path == "" {
		return nil, nil
	}
	data, err := sft.LoadJSONL(path)
	if err != nil {
		return nil, fmt.Errorf("questions: %w", err)
	}
	rows, err := data.Rows()
	if err != nil {
		return nil, fmt.Errorf("questions: %w", err)
	}
	for i, row := range rows {
		asked, err := row.Text("question")
		expect, missing := row.Text("expect")
		if err := errors.Join(err, missing); err != nil {
			return nil, fmt.Errorf(`questions: %s, question %d: want {"question": …, "expect": …}: %w`, path, i+1, err)
		}
		if asked == "" || expect == "" {
			return nil, fmt.Errorf(`questions: %s, question %d: "question" and "expect" must both be filled in`, path, i+1)
		}
		all = append(all, question{asked, expect})
	}
	return all, nil
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
