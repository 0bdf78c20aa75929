package sft

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/tokenizer"
)

// Tokenizer is what the trainer needs of a tokenizer; *tokenizer.Tokenizer is one. Its methods are called from several
// goroutines. It may have more of that one's methods: with SavePretrained it is saved into every checkpoint, with
// TrainingTemplate published chat templates are trained as TRL does, SFTConfig.TokenCache needs Fingerprint, and
// SFTConfig.ChatTemplatePath SetChatTemplate.
type Tokenizer interface {
	Encode(text string, addSpecialTokens bool) ([]int, error)
	// EncodeFull also gives the bytes [start, end) of the text that each token stands for.
	EncodeFull(text string, addSpecialTokens bool) (*tokenizer.Encoding, error)
	Decode(ids []int, skipSpecialTokens bool) (string, error)
	ApplyChatTemplate(messages []Message, o tokenizer.ChatOptions) (string, error)
	// ApplyChatTemplateSpans also gives the byte ranges of the text that an assistant-only loss trains.
	ApplyChatTemplateSpans(messages []Message, o tokenizer.ChatOptions) (text string, assistant [][2]int, err error)
	TokenToID(token string) (int, bool)
	BOSID() int
	EOSToken() string
	PadToken() string
}

var _ Tokenizer = (*tokenizer.Tokenizer)(nil)

// Ignored is the label of a token that is not trained.
const Ignored = training.IgnoreIndex

// example is one tokenized row. A label is the token's own id, or Ignored: batches shift them.
type example struct {
	ids, labels []int32
	row         int // of the data set as it was given, from 1; 0: several

	diverges string // the end of the prompt's tokens, decoded, if prompt + completion is tokenized differently
	twoBOS   bool   // the text brought its own BOS token, and the tokenizer added one
}

// trained reports whether any token has a label.
func (e example) trained() bool {
	for _, l := range e.labels {
		if l != Ignored {
			return true
		}
	}
	return false
}

// rowTokenizer turns the rows of one data set into examples.
type rowTokenizer struct {
	tok            Tokenizer
	cfg            SFTConfig
	format         format
	completionOnly bool
	eos            string
	template       string // the chat template to train with, "": the tokenizer's own
}

func newRowTokenizer(tok Tokenizer, first Row, c SFTConfig) (*rowTokenizer, error) {
	f, err := detectFormat(first, c)
	if err != nil {
		return nil, err
	}
	completionOnly, err := checkMasks(f, first, c)
	if err != nil {
		return nil, err
	}
	t := &rowTokenizer{tok: tok, cfg: c, format: f, completionOnly: completionOnly, eos: c.EOSToken}
	if t.eos == "" {
		t.eos = tok.EOSToken()
	}
	if t.eos == "" && (f == plainText || f == promptCompletion) {
		return nil, errors.New("sft: the tokenizer has no EOS token, so the model could not learn to stop: set SFTConfig.EOSToken to a token of its vocabulary")
	}
	if known, ok := tok.(interface{ TrainingTemplate() (string, error) }); ok && c.AssistantOnlyLoss && f.conversational() {
		if t.template, err = known.TrainingTemplate(); err != nil {
			return nil, fmt.Errorf("sft: %w", err)
		}
	}
	return t, nil
}

// tokenize is TRL's preparation of one row (SFTTrainer._prepare_dataset): EOS, tokens, masks, labels.
func (t *rowTokenizer) tokenize(r Row) (e example, err error) {
	switch t.format {
	case tokenized:
		return t.pretokenized(r)
	case plainText:
		return t.plain(r)
	case promptCompletion:
		return t.promptCompletion(r)
	case conversation:
		return t.conversation(r)
	}
	return t.conversationCompletion(r)
}

// plain tokenizes text with the tokenizer's own special tokens; its end is marked as text, so that the tokenizer sees it.
func (t *rowTokenizer) plain(r Row) (e example, err error) {
	var text string
	if t.cfg.FormattingFunc != nil {
		text, err = t.cfg.FormattingFunc(r)
	} else {
		text, err = r.Text(t.cfg.DatasetTextField)
	}
	if err != nil {
		return e, err
	}
	ids, err := t.tok.Encode(t.ended(text), true)
	if err != nil {
		return e, err
	}
	bos := t.tok.BOSID()
	e.twoBOS = bos >= 0 && len(ids) > 1 && ids[0] == bos && ids[1] == bos
	return e.label(ids), nil
}

func (t *rowTokenizer) promptCompletion(r Row) (e example, err error) {
	prompt, err1 := r.Text("prompt")
	completion, err2 := r.Text("completion")
	if err := errors.Join(err1, err2); err != nil {
		return e, err
	}
	promptIDs, err1 := t.tok.Encode(prompt, true)
	ids, err2 := t.tok.Encode(prompt+t.ended(completion), true)
	if err := errors.Join(err1, err2); err != nil {
		return e, err
	}
	return t.complete(promptIDs, ids, nil)
}

// conversation renders the chat template, which is the only source of BOS and of end-of-turn tokens.
func (t *rowTokenizer) conversation(r Row) (e example, err error) {
	column := "messages"
	if !r.Has(column) && r.Has("conversations") {
		column = "conversations"
	}
	messages, err := r.Messages(column)
	if err != nil {
		return e, err
	}
	o, err := t.chatOptions(r)
	if err != nil {
		return e, err
	}
	ids, mask, err := t.render(messages, o)
	if err != nil {
		return e, err
	}
	return e.label(ids, mask), nil
}

func (t *rowTokenizer) conversationCompletion(r Row) (e example, err error) {
	prompt, err1 := r.Messages("prompt")
	completion, err2 := r.Messages("completion")
	o, err3 := t.chatOptions(r)
	if err := errors.Join(err1, err2, err3); err != nil {
		return e, err
	}
	ids, mask, err := t.render(append(prompt[:len(prompt):len(prompt)], completion...), o)
	if err != nil {
		return e, err
	}
	o.AddGenerationPrompt = true
	text, err := t.tok.ApplyChatTemplate(withReasoning(prompt), o)
	if err != nil {
		return e, err
	}
	promptIDs, err := t.tok.Encode(text, false)
	if err != nil {
		return e, err
	}
	return t.complete(promptIDs, ids, mask)
}

func (t *rowTokenizer) chatOptions(r Row) (o tokenizer.ChatOptions, err error) {
	o.Template = t.template
	if o.Tools, err = r.Tools(); err != nil {
		return o, err
	}
	o.Kwargs, err = r.Object("chat_template_kwargs")
	return o, err
}

// withReasoning gives the reasoning of messages all the names under which templates read it, in copies: reasoning_content,
// and thinking, which those of gpt-oss read (transformers.utils.chat_template_utils, since 5.24).
func withReasoning(messages []Message) []Message {
	named := slices.Clone(messages)
	for i, m := range messages {
		for _, name := range [...]string{"reasoning_content", "thinking", "reasoning"} {
			v := m[name]
			if v == nil {
				continue
			}
			m = maps.Clone(m)
			if _, ok := m["thinking"]; !ok {
				m["thinking"] = v
			}
			m["reasoning_content"] = v
			named[i] = m
			break
		}
	}
	return named
}

// render tokenizes a conversation. mask tells the tokens that the assistant said, nil without AssistantOnlyLoss.
func (t *rowTokenizer) render(messages []Message, o tokenizer.ChatOptions) (ids []int, mask []bool, err error) {
	messages = withReasoning(messages)
	if !t.cfg.AssistantOnlyLoss {
		text, err := t.tok.ApplyChatTemplate(messages, o)
		if err != nil {
			return nil, nil, err
		}
		ids, err = t.tok.Encode(text, false)
		return ids, nil, err
	}
	text, spans, err := t.tok.ApplyChatTemplateSpans(messages, o)
	if err != nil {
		return nil, nil, err
	}
	if t.cfg.LastTurnOnlyLoss {
		spans = t.lastTurn(messages, o, spans)
	}
	enc, err := t.tok.EncodeFull(text, false)
	if err != nil {
		return nil, nil, err
	}
	mask, any := overlaps(enc.Offsets, spans)
	if !any {
		return nil, nil, errors.New("AssistantOnlyLoss or LastTurnOnlyLoss is true, but the row has no assistant tokens: check the roles, and that the chat template marks the assistant's turns")
	}
	return enc.IDs, mask, nil
}

// lastTurn keeps the spans of the assistant's last turn: those that the conversation before it does not have.
func (t *rowTokenizer) lastTurn(messages []Message, o tokenizer.ChatOptions, spans [][2]int) [][2]int {
	last := len(messages) - 1
	for last >= 0 && messages[last]["role"] != "assistant" {
		last--
	}
	if last <= 0 || len(spans) == 0 {
		return spans
	}
	_, before, err := t.tok.ApplyChatTemplateSpans(messages[:last], o)
	if err != nil { // templates may refuse a conversation that is cut short; a turn usually is one span
		return spans[len(spans)-1:]
	}
	return spans[min(len(before), len(spans)):]
}

// stopTrained probes whether the last token that a turn of the assistant trains is a special one, which ends it.
func (t *rowTokenizer) stopTrained() bool {
	probe := []Message{{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "a"}}
	ids, mask, err := t.render(probe, tokenizer.ChatOptions{Template: t.template})
	if err != nil {
		return false
	}
	for i := len(ids) - 1; i >= 0; i-- {
		if !mask[i] {
			continue
		}
		text, err1 := t.tok.Decode(ids[i:i+1], false)
		plain, err2 := t.tok.Decode(ids[i:i+1], true)
		if err1 != nil || err2 != nil || strings.TrimSpace(text) != "" {
			return err1 == nil && err2 == nil && plain == ""
		}
	}
	return false
}

// overlaps tells the tokens that share bytes with a span; both are in order of the text.
func overlaps(offsets, spans [][2]int) (mask []bool, any bool) {
	mask = make([]bool, len(offsets))
	for i, o := range offsets {
		for len(spans) > 0 && o[0] >= spans[0][1] {
			spans = spans[1:]
		}
		if len(spans) == 0 {
			break
		}
		mask[i] = o[1] > spans[0][0]
		any = any || mask[i]
	}
	return mask, any
}

// complete masks the prompt. The completion starts where the tokens of the prompt alone and of prompt + completion part,
// which is before the prompt's end if tokens merge across the boundary or the template renders the prompt differently.
func (t *rowTokenizer) complete(prompt, ids []int, assistant []bool) (e example, err error) {
	n := 0
	for n < min(len(prompt), len(ids)) && prompt[n] == ids[n] {
		n++
	}
	if n < len(prompt) {
		if e.diverges, err = t.tok.Decode(prompt[n:], false); err != nil {
			return e, err
		}
	}
	if !t.completionOnly {
		return e.label(ids, assistant), nil
	}
	mask := make([]bool, len(ids))
	for i := n; i < len(ids); i++ {
		mask[i] = true
	}
	return e.label(ids, mask, assistant), nil
}

// pretokenized takes ids as they are; labels win over masks.
func (t *rowTokenizer) pretokenized(r Row) (e example, err error) {
	var columns [4][]int32
	for i, name := range []string{"input_ids", "labels", "completion_mask", "assistant_masks"} {
		if columns[i], err = r.Ints(name); err != nil {
			return e, err
		}
		if i == 0 && columns[0] == nil {
			_, err := r.Value(name)
			return e, err
		}
		if columns[i] != nil && len(columns[i]) != len(columns[0]) {
			return e, fmt.Errorf("column %q has %d values, input_ids has %d; want one for each token", name, len(columns[i]), len(columns[0]))
		}
	}
	ids, labels, completion, assistant := columns[0], columns[1], columns[2], columns[3]
	if labels != nil {
		e.ids, e.labels = ids, labels
		return e, e.check()
	}
	if !t.completionOnly {
		completion = nil
	}
	wide := make([]int, len(ids))
	for i, id := range ids {
		wide[i] = int(id)
	}
	e = e.label(wide, nonZero(completion), nonZero(assistant))
	return e, e.check()
}

func nonZero(mask []int32) []bool {
	if mask == nil {
		return nil
	}
	b := make([]bool, len(mask))
	for i, m := range mask {
		b[i] = m != 0
	}
	return b
}

// check refuses ids and labels that no tokenizer gave.
func (e example) check() error {
	for i, id := range e.ids {
		if id < 0 {
			return fmt.Errorf("input_ids[%d] is %d; want a token id", i, id)
		}
		if l := e.labels[i]; l != Ignored && l < 0 {
			return fmt.Errorf("labels[%d] is %d; want a token id, or %d for none", i, l, Ignored)
		}
	}
	return nil
}

// label sets ids, and as labels those ids that every mask (nil: all tokens) lets through.
func (e example) label(ids []int, masks ...[]bool) example {
	e.ids, e.labels = make([]int32, len(ids)), make([]int32, len(ids))
	for i, id := range ids {
		e.ids[i], e.labels[i] = int32(id), int32(id)
		for _, mask := range masks {
			if mask != nil && !mask[i] {
				e.labels[i] = Ignored
			}
		}
	}
	return e
}

// ended is text with the EOS token at its end.
func (t *rowTokenizer) ended(text string) string {
	if strings.HasSuffix(text, t.eos) {
		return text
	}
	return text + t.eos
}
