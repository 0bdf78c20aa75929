package sft

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/tokenizer"
)

func chat(turns ...string) (messages []any) {
	for i := 0; i < len(turns); i += 2 {
		messages = append(messages, map[string]any{"role": turns[i], "content": turns[i+1]})
	}
	return messages
}

// trainedText shows an example with its trained tokens in brackets.
func trainedText(t *testing.T, e example) string {
	t.Helper()
	var b strings.Builder
	open := false
	for i, id := range e.ids {
		if trained := e.labels[i] != Ignored; trained != open {
			b.WriteString(map[bool]string{true: "[", false: "]"}[trained])
			open = trained
		}
		s, err := toyTokenizer{}.Decode([]int{int(id)}, false)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(s)
	}
	if open {
		b.WriteString("]")
	}
	return b.String()
}

func TestTokenizeMasksByFormat(t *testing.T) {
	const turns = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
	for _, c := range []struct {
		name   string
		row    Row
		config SFTConfig
		want   string
	}{
		{"text", Row{"text": "abc"}, SFTConfig{}, "[<s>abc</s>]"},
		{"text that is ended", Row{"text": "abc</s>"}, SFTConfig{}, "[<s>abc</s>]"},
		{"column", Row{"body": "abc", "text": "no"}, SFTConfig{DatasetTextField: "body"}, "[<s>abc</s>]"},
		{"end token", Row{"text": "abc"}, SFTConfig{EOSToken: "<|im_end|>"}, "[<s>abc<|im_end|>]"},
		{"formatting", Row{"q": "x", "a": "y"}, SFTConfig{FormattingFunc: func(r Row) (string, error) { return fmt.Sprint(r["q"], r["a"]), nil }}, "[<s>xy</s>]"},
		{"pair", Row{"prompt": "ab", "completion": "cd"}, SFTConfig{}, "<s>ab[cd</s>]"},
		{"pair, all", Row{"prompt": "ab", "completion": "cd"}, SFTConfig{CompletionOnlyLoss: new(false)}, "[<s>abcd</s>]"},
		{"chat", Row{"messages": chat("user", "Hi", "assistant", "Ho")}, SFTConfig{}, "[" + turns + "Ho<|im_end|>\n]"},
		{"chat, assistant", Row{"messages": chat("user", "Hi", "assistant", "Ho")}, SFTConfig{AssistantOnlyLoss: true}, turns + "[Ho<|im_end|>]\n"},
		{"chat, last turn", Row{"messages": chat("user", "a", "assistant", "b", "user", "Hi", "assistant", "Ho")}, SFTConfig{LastTurnOnlyLoss: true},
			"<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n" + turns + "[Ho<|im_end|>]\n"},
		{"chat, last turn before a question", Row{"messages": chat("user", "Hi", "assistant", "Ho", "user", "a")}, SFTConfig{LastTurnOnlyLoss: true},
			turns + "[Ho<|im_end|>]\n<|im_start|>user\na<|im_end|>\n"},
		{"chat pair, last turn", Row{"prompt": chat("user", "Hi"), "completion": chat("assistant", "a", "assistant", "b")}, SFTConfig{LastTurnOnlyLoss: true},
			turns + "a<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n"},
		{"sharegpt", Row{"conversations": []any{map[string]any{"from": "user", "value": "Hi"}, map[string]any{"from": "assistant", "value": "Ho"}}},
			SFTConfig{AssistantOnlyLoss: true}, turns + "[Ho<|im_end|>]\n"},
		{"chat pair", Row{"prompt": chat("user", "Hi"), "completion": chat("assistant", "Ho")}, SFTConfig{}, turns + "[Ho<|im_end|>\n]"},
		{"chat pair, assistant", Row{"prompt": chat("user", "Hi"), "completion": chat("assistant", "Ho")}, SFTConfig{AssistantOnlyLoss: true}, turns + "[Ho<|im_end|>]\n"},
		{"messages as Go values", Row{"messages": []Message{{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}}}, SFTConfig{AssistantOnlyLoss: true}, turns + "[Ho<|im_end|>]\n"},
		{"template variables", Row{"messages": chat("assistant", "Ho"), "chat_template_kwargs": map[string]any{"greeting": "G"}, "tools": `["T"]`}, SFTConfig{AssistantOnlyLoss: true},
			"G[\"T\"]<|im_start|>assistant\n[Ho<|im_end|>]\n"},
		{"ids", Row{"input_ids": []int{'a', 'b'}}, SFTConfig{}, "[ab]"},
		{"ids and labels", Row{"input_ids": []any{int64('a'), int64('b')}, "labels": []int32{-100, 'b'}}, SFTConfig{}, "a[b]"},
		{"ids and masks", Row{"input_ids": []int{'a', 'b', 'c'}, "completion_mask": []int{0, 1, 1}, "assistant_masks": []int{1, 0, 1}}, SFTConfig{CompletionOnlyLoss: new(true)}, "ab[c]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.config = c.config.withDefaults()
			rt, err := newRowTokenizer(toyTokenizer{}, c.row, c.config)
			if err != nil {
				t.Fatal(err)
			}
			e, err := rt.tokenize(c.row)
			if err != nil {
				t.Fatal(err)
			}
			if got := trainedText(t, e); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestPrepareNamesTheRowAndColumn(t *testing.T) {
	good := map[string]Row{
		"text": {"text": "a"}, "pair": {"prompt": "a", "completion": "b"}, "chat": {"messages": chat("user", "a")},
		"chat pair": {"prompt": chat("user", "a"), "completion": chat("assistant", "b")}, "ids": {"input_ids": []any{int64(1)}},
	}
	for _, c := range []struct {
		name, first string
		row         Row
		config      SFTConfig
		says        []string
	}{
		{"missing text", "text", Row{"txt": "a"}, SFTConfig{}, []string{"row 2", `"text" is missing`, `"txt"`}},
		{"text of another kind", "text", Row{"text": int64(3)}, SFTConfig{}, []string{"row 2", `"text" is 3`, "want a text"}},
		{"not ASCII", "text", Row{"text": "☃"}, SFTConfig{}, []string{"row 2", "not ASCII"}},
		{"missing completion", "pair", Row{"prompt": "a"}, SFTConfig{}, []string{"row 2", `"completion" is missing`}},
		{"messages among texts", "pair", Row{"prompt": chat("user", "a"), "completion": "b"}, SFTConfig{}, []string{"row 2", `"prompt" is a list`, "want a text"}},
		{"texts among messages", "chat pair", Row{"prompt": "a", "completion": "b"}, SFTConfig{}, []string{"row 2", `"prompt" is a text`, "list of messages"}},
		{"no messages", "chat", Row{"messages": []any{}}, SFTConfig{}, []string{"row 2", "empty list"}},
		{"message is a text", "chat", Row{"messages": []any{"a"}}, SFTConfig{}, []string{"row 2", "messages[0] is a text"}},
		{"no role", "chat", Row{"messages": []any{map[string]any{"content": "a"}}}, SFTConfig{}, []string{"row 2", "messages[0] has no role", `"content"`}},
		{"template refuses", "chat", Row{"messages": chat("user", "a", "system", "b")}, SFTConfig{}, []string{"row 2", "late system message"}},
		{"tools", "chat", Row{"messages": chat("user", "a"), "tools": "[{"}, SFTConfig{}, []string{"row 2", `"tools"`, "ends too early"}},
		{"template variables", "chat", Row{"messages": chat("user", "a"), "chat_template_kwargs": "x"}, SFTConfig{}, []string{"row 2", "chat_template_kwargs", "want an object"}},
		{"no assistant", "chat", Row{"messages": chat("user", "a")}, SFTConfig{AssistantOnlyLoss: true}, []string{"row 1", "no assistant tokens"}},
		{"ids missing", "ids", Row{"labels": []int{1}}, SFTConfig{}, []string{"row 2", `"input_ids" is missing`}},
		{"ids are texts", "ids", Row{"input_ids": []any{"a"}}, SFTConfig{}, []string{"row 2", "input_ids[0] is a", "whole number"}},
		{"ids are no list", "ids", Row{"input_ids": "a"}, SFTConfig{}, []string{"row 2", `"input_ids" is a text`}},
		{"ids are negative", "ids", Row{"input_ids": []any{int64(-1)}}, SFTConfig{}, []string{"row 2", "input_ids[0] is -1"}},
		{"labels are negative", "ids", Row{"input_ids": []int{1}, "labels": []int{-1}}, SFTConfig{}, []string{"row 2", "labels[0] is -1", "-100"}},
		{"labels of another length", "ids", Row{"input_ids": []int{1, 2}, "labels": []int{1}}, SFTConfig{}, []string{"row 2", `"labels" has 1 values, input_ids has 2`}},
		{"formatting fails", "text", Row{"text": "b"}, SFTConfig{FormattingFunc: func(r Row) (string, error) {
			if r["text"] == "b" {
				return "", errBroken
			}
			return "a", nil
		}}, []string{"row 2", errBroken.Error()}},
		{"too long", "text", Row{"text": "abcdefgh"}, SFTConfig{MaxLength: 5, ExcessLengthStrategy: "raise"}, []string{"row 2", "10 tokens", "MaxLength is 5"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.config.Logger = quiet
			_, _, err := prepare(FromRows([]Row{good[c.first], c.row}), toyTokenizer{}, c.config.withDefaults(), false, "training")
			wantError(t, err, c.says...)
		})
	}
}

func TestPrepareRefusesDataSetsThatCannotBeMeant(t *testing.T) {
	for _, c := range []struct {
		name   string
		rows   []Row
		config SFTConfig
		says   []string
	}{
		{"no rows", nil, SFTConfig{}, []string{"no rows"}},
		{"unknown columns", []Row{{"question": "a", "answer": "b"}}, SFTConfig{}, []string{`row 1 has the columns ["answer" "question"]`, `"text"`, `"messages"`}},
		{"empty conversation first", []Row{{"messages": []any{}}}, SFTConfig{}, []string{"row 1", "empty list"}},
		{"assistant of texts", []Row{{"text": "a"}}, SFTConfig{AssistantOnlyLoss: true}, []string{"AssistantOnlyLoss", "want conversations"}},
		{"last turn of texts", []Row{{"text": "a"}}, SFTConfig{LastTurnOnlyLoss: true}, []string{"LastTurnOnlyLoss", "want conversations"}},
		{"completion of texts", []Row{{"text": "a"}}, SFTConfig{CompletionOnlyLoss: new(true)}, []string{"CompletionOnlyLoss", `"prompt" and "completion"`}},
		{"all masked", []Row{{"prompt": "abcdefgh", "completion": "i"}}, SFTConfig{MaxLength: 4}, []string{"no token", "1 fully masked", "MaxLength 4"}},
		{"all masked, packed", []Row{{"prompt": "abcdefgh", "completion": "i"}}, SFTConfig{MaxLength: 4, Packing: true}, []string{"no token", "MaxLength 4"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.config.Logger = quiet
			_, _, err := prepare(FromRows(c.rows), toyTokenizer{}, c.config.withDefaults(), c.config.Packing, "training")
			wantError(t, err, c.says...)
		})
	}
	_, _, err := prepare(FromRows([]Row{{"text": "a"}}), endless{}, SFTConfig{Logger: quiet}.withDefaults(), false, "training")
	wantError(t, err, "no EOS token", "SFTConfig.EOSToken")
}

// endless is a tokenizer without EOS.
type endless struct{ toyTokenizer }

func (endless) EOSToken() string { return "" }

// merging is a tokenizer that joins "th" into one token.
type merging struct{ toyTokenizer }

func (m merging) Encode(text string, special bool) ([]int, error) {
	ids, err := m.toyTokenizer.Encode(strings.ReplaceAll(text, "th", "\x01"), special)
	return ids, err
}

func (m merging) Decode(ids []int, skip bool) (string, error) {
	text, err := m.toyTokenizer.Decode(ids, skip)
	return strings.ReplaceAll(text, "\x01", "th"), err
}

func TestCompletionStartsWherePromptAndWholePart(t *testing.T) {
	log, said := logTo()
	c := SFTConfig{Logger: log}.withDefaults()
	d, report, err := prepare(FromRows([]Row{{"prompt": "at", "completion": "he"}, {"prompt": "a", "completion": "b"}}), merging{}, c, false, "training")
	if err != nil {
		t.Fatal(err)
	}
	if got := trainedText(t, d.rows[0][0]); got != "<s>a[\x01e</s>]" {
		t.Errorf("got %q", got)
	}
	if report.PromptNotPrefix != 1 || !strings.Contains(said.String(), "tokenized differently") || !strings.Contains(said.String(), "end_of_a_prompt=t") {
		t.Errorf("report %+v, log %s", report, said)
	}
}

func TestPrepareCountsAndReportsWhatIsLost(t *testing.T) {
	rows := []Row{
		{"prompt": "abc", "completion": "de"},         // 7 tokens
		{"prompt": "abc", "completion": "defghij"},    // 12: two lost
		{"prompt": "abcdefghijkl", "completion": "m"}, // 15: only its prompt would stay
	}
	log, said := logTo()
	_, report, err := prepare(FromRows(rows), toyTokenizer{}, SFTConfig{MaxLength: 10, Logger: log}.withDefaults(), false, "training")
	if err != nil {
		t.Fatal(err)
	}
	want := DataReport{Rows: 3, Examples: 2, BatchRows: 2, Truncated: 2, TokensLost: 7, LabelsLost: 4, FullyMasked: 1, Tokens: 17, Labels: 3 + 6}
	if *report != want {
		t.Errorf("got  %+v\nwant %+v", *report, want)
	}
	for _, s := range []string{"max_length=10", "truncated=2", "tokens_lost=7", "labels_lost=4", "fully_masked=1"} {
		if !strings.Contains(said.String(), s) {
			t.Errorf("the log does not say %s:\n%s", s, said)
		}
	}
	_, report, err = prepare(FromRows(rows), toyTokenizer{}, SFTConfig{MaxLength: 10, Logger: quiet, ExcessLengthStrategy: "drop"}.withDefaults(), false, "training")
	if err != nil {
		t.Fatal(err)
	}
	if want := (DataReport{Rows: 3, Examples: 1, BatchRows: 1, TooLong: 2, TokensLost: 27, Tokens: 7, Labels: 3}); *report != want {
		t.Errorf("dropping: got  %+v\nwant %+v", *report, want)
	}
}

func TestPrepareWarnsOfDoubledBOS(t *testing.T) {
	log, said := logTo()
	if _, _, err := prepare(FromRows([]Row{{"text": "<s>a"}, {"text": "b"}}), toyTokenizer{}, SFTConfig{Logger: log}.withDefaults(), false, "training"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.String(), "two BOS tokens") || !strings.Contains(said.String(), "rows=1") {
		t.Errorf("log: %s", said)
	}
}

func TestAllNamesTheFirstFaultyRow(t *testing.T) {
	rows := make([]Row, 500)
	for i := range rows {
		rows[i] = Row{"text": "abc"}
		if i%100 == 57 {
			rows[i] = Row{"text": "☃"}
		}
	}
	for range 20 {
		_, _, err := prepare(FromRows(rows), toyTokenizer{}, SFTConfig{Logger: quiet}.withDefaults(), false, "training")
		wantError(t, err, "row 58:")
	}
}

func TestOverlapsTakesTokensThatStraddle(t *testing.T) {
	offsets := [][2]int{{0, 0}, {0, 2}, {2, 5}, {5, 6}, {6, 9}, {9, 9}, {9, 12}}
	got, found := overlaps(offsets, [][2]int{{1, 3}, {8, 10}})
	want := []bool{false, true, true, false, true, true, true}
	// the empty token at 9 lies inside a span; the first one, before all spans, does not
	if !found || !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, found := overlaps(offsets, nil); found {
		t.Error("found tokens in no span")
	}
}

func TestShuffleDatasetIsReproducible(t *testing.T) {
	c := SFTConfig{Logger: quiet, ShuffleDataset: true, MaxLength: 64}
	var prints []string
	for _, seed := range []int64{1, 1, 2} {
		c.Seed = seed
		d, _, err := prepare(FromRows(zen()), toyTokenizer{}, c.withDefaults(), false, "training")
		if err != nil {
			t.Fatal(err)
		}
		prints = append(prints, d.fingerprint())
	}
	if prints[0] != prints[1] || prints[0] == prints[2] {
		t.Errorf("seeds 1, 1, 2 give %v", prints)
	}
}

func TestNewSFTTrainerRefusesTokensOutsideTheVocabulary(t *testing.T) {
	c := testConfig(t)
	c.EOSToken, c.PadToken = "<eos>", "<pad>"
	_, err := NewSFTTrainer(newToyModel(), toyTokenizer{}, FromRows(zen()), c)
	wantError(t, err, "SFTConfig.EOSToken", `"<eos>"`, "SFTConfig.PadToken", `"<pad>"`)
	_, err = NewSFTTrainer(nil, toyTokenizer{}, FromRows(zen()), testConfig(t))
	wantError(t, err, "nil")
	if errors.Is(err, errBroken) {
		t.Error(err)
	}
}

// openEnded marks assistant turns without their end.
type openEnded struct{ toyTokenizer }

func (o openEnded) ApplyChatTemplateSpans(messages []Message, opts tokenizer.ChatOptions) (string, [][2]int, error) {
	text, spans, err := o.toyTokenizer.ApplyChatTemplateSpans(messages, opts)
	for i := range spans {
		spans[i][1] -= len("<|im_end|>")
	}
	return text, spans, err
}

func TestPrepareWarnsOfAnEndOfTurnThatIsNotTrained(t *testing.T) {
	rows := []Row{{"messages": chat("user", "Hi", "assistant", "Ho")}}
	for tok, want := range map[Tokenizer]bool{toyTokenizer{}: false, openEnded{}: true} {
		log, said := logTo()
		if _, _, err := prepare(FromRows(rows), tok, SFTConfig{Logger: log, AssistantOnlyLoss: true}.withDefaults(), false, "training"); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(said.String(), "may not learn to stop"); got != want {
			t.Errorf("%T: warned %v, want %v", tok, got, want)
		}
	}
}

func TestPreviewShowsDocumentsAndWhatIsTrained(t *testing.T) {
	c := testConfig(t)
	c.Packing = true
	trainer := mustTrainer(t, newToyModel(), []Row{{"prompt": "ab", "completion": "cd"}, {"prompt": "e", "completion": "f"}}, c)
	got, err := trainer.Preview(0)
	if want := "<s>ab⟦cd</s>⟧\n<s>e⟦f</s>⟧\n"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	_, err = trainer.Preview(1)
	wantError(t, err, "row 1", "there are 1")
	_, err = trainer.PreviewTokens(-1)
	wantError(t, err, "row -1", "there are 1")
	tokens, err := trainer.PreviewTokens(0)
	if err != nil || len(tokens) != 10 {
		t.Fatalf("%d tokens (%v), want 10", len(tokens), err)
	}
	for i, want := range map[int]PreviewToken{0: {0, 128, "<s>", Ignored, false}, 3: {0, 'c', "c", 'c', true}, 9: {1, 129, "</s>", 129, true}} {
		if tokens[i] != want {
			t.Errorf("token %d is %+v, want %+v", i, tokens[i], want)
		}
	}
	coloured, err := trainer.train.preview(trainer.tok, 0, colourMarks)
	if want := "\x1b[90m<s>ab\x1b[0m\x1b[32mcd</s>\x1b[0m\n\x1b[90m<s>e\x1b[0m\x1b[32mf</s>\x1b[0m\n"; err != nil || coloured != want {
		t.Errorf("in colours %q (%v), want %q", coloured, err, want)
	}
	var written strings.Builder
	if err := trainer.WritePreview(&written, 5); err != nil || written.String() != "row 0: documents 2, tokens 10, trained 5\n"+got {
		t.Errorf("written %q (%v)", written.String(), err)
	}
}
