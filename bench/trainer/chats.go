package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"strings"

	"github.com/loris-ml/loris/tokenizer"
)

// syllables make up the words of invented conversations.
var syllables = strings.Fields("an be ca dor el fin gra hol in jas ken lu mar no ol pre qui ran sel tor un vi wes yor zu ing ed er ly tion")

// writeChats writes a file of conversations of one or two turns, in words of one to three syllables, that fill at least so many
// packed rows of length tokens. Most are much shorter than a row.
func writeChats(path string, tok *tokenizer.Tokenizer, rows, length int) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	random := rand.New(rand.NewPCG(3, 5))
	say := func(words int) string {
		var s strings.Builder
		for i := range words {
			if i > 0 {
				s.WriteByte(' ')
			}
			for range 1 + random.IntN(3) {
				s.WriteString(syllables[random.IntN(len(syllables))])
			}
		}
		return s.String()
	}
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	for have := 0; have < rows*length; {
		var messages []message
		for range 1 + random.IntN(2) {
			messages = append(messages, message{"user", say(1 + random.IntN(1+length/100))}, message{"assistant", say(1 + random.IntN(1+length/20))})
		}
		line, err := json.Marshal(map[string]any{"messages": messages})
		if err != nil {
			return err
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return err
		}
		tokens := 0
		for _, m := range messages {
			ids, err := tok.Encode(m.Content, false)
			if err != nil {
				return err
			}
			tokens += len(ids)
		}
		have += min(tokens, length)
	}
	return w.Flush()
}
