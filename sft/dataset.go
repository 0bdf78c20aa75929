package sft

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/loris-ml/loris/internal/mapfile"
	"github.com/loris-ml/loris/internal/training"
)

// DataReport says what preparation made of a data set.
type DataReport struct {
	Rows        int `json:"rows"`         // rows given
	Examples    int `json:"examples"`     // examples trained on: documents of packed rows, pieces of split ones
	BatchRows   int `json:"batch_rows"`   // rows that batches are made of: examples, or packed rows
	Truncated   int `json:"truncated"`    // examples cut to MaxLength
	TokensLost  int `json:"tokens_lost"`  // tokens cut off them, or left out with them (ExcessLengthStrategy "drop")
	LabelsLost  int `json:"labels_lost"`  // labels among the tokens that were cut off
	TooLong     int `json:"too_long"`     // examples left out because of their length
	FullyMasked int `json:"fully_masked"` // examples left out because no token of theirs has a label
	Empty       int `json:"empty"`        // examples without tokens
	Tokens      int `json:"tokens"`       // tokens of an epoch
	Labels      int `json:"labels"`       // labels of an epoch
	// PromptNotPrefix counts examples whose prompt is tokenized otherwise alone than before its completion.
	PromptNotPrefix int `json:"prompt_not_prefix"`
	// Cached is whether the tokens came from SFTConfig.TokenCache.
	Cached bool `json:"cached"`

	divergence string // the end of such a prompt
	twoBOS     int    // examples that begin with two BOS tokens
}

// packedRow is one row of a batch: documents that follow each other without seeing each other.
type packedRow []example

func (r packedRow) length() (n int) {
	for _, d := range r {
		n += len(d.ids)
	}
	return n
}

// dataset are the rows that batches are made of.
type dataset struct {
	rows   []packedRow
	packed bool
	length int           // of the longest row
	id     string        // what fingerprint has found
	cache  *mapfile.File // holds the tokens of the rows, nil: they are in memory
}

// prepare is TRL's pipeline: tokenize, truncate, drop, shuffle and pack.
func prepare(data *Dataset, tok Tokenizer, c SFTConfig, packing bool, name string) (*dataset, *DataReport, error) {
	start := time.Now()
	first, err := firstRow(data, name)
	if err != nil {
		return nil, nil, err
	}
	t, err := newRowTokenizer(tok, first, c)
	if err != nil {
		return nil, nil, err
	}
	d, report := &dataset{packed: packing}, &DataReport{}
	tokens, err := t.tokens(data, d, report)
	if err != nil {
		return nil, nil, err
	}
	var examples []example
	for e, err := range tokens {
		if err != nil {
			return nil, nil, err
		}
		if e, ok, err := report.fit(e, c, packing); err != nil {
			return nil, nil, err
		} else if ok {
			examples = append(examples, e)
		}
	}
	d.arrange(examples, c)
	d.measure(report)
	if report.Labels == 0 {
		return nil, nil, fmt.Errorf("sft: no token of the %s data set has a label to train (%d rows, %d fully masked): check the masks, and whether prompts fill MaxLength %d", name, report.Rows, report.FullyMasked, c.MaxLength)
	}
	if c.AssistantOnlyLoss && t.format.conversational() && !t.stopTrained() {
		c.Logger.Warn("the chat template leaves the end of the assistant's turns untrained, so the model may not learn to stop: put the end-of-turn token inside the part that it marks")
	}
	report.log(c, name, time.Since(start))
	return d, report, nil
}

// firstRow is the row that decides how all are written.
func firstRow(data *Dataset, name string) (Row, error) {
	if data == nil {
		return nil, fmt.Errorf("sft: there is no %s data set", name)
	}
	for row, err := range data.All() {
		if err != nil {
			return nil, fmt.Errorf("sft: the %s data set: %w", name, err)
		}
		return row, nil
	}
	return nil, fmt.Errorf("sft: the %s data set has no rows", name)
}

// arrange makes the rows of batches from the examples: one of each, or packed ones.
func (d *dataset) arrange(examples []example, c SFTConfig) {
	switch {
	case !d.packed:
		for i := range examples {
			d.rows = append(d.rows, examples[i:i+1:i+1])
		}
	case c.ShuffleDataset:
		d.rows = pack(shuffled(examples, c.Seed), c.MaxLength, c.PackingStrategy)
	default:
		d.rows = pack(examples, c.MaxLength, c.PackingStrategy)
	}
	if c.ShuffleDataset {
		d.rows = shuffled(d.rows, c.Seed)
	}
}

// fit brings the next example to MaxLength, and reports whether it is to be kept: those that train nothing are not.
func (r *DataReport) fit(e example, c SFTConfig, packing bool) (fitted example, keep bool, err error) {
	r.Rows++
	if e.diverges != "" {
		r.PromptNotPrefix++
		if r.divergence == "" {
			r.divergence = e.diverges
		}
	}
	if e.twoBOS {
		r.twoBOS++
	}
	n := len(e.ids)
	if n == 0 {
		r.Empty++
		return e, packing, nil // packing groups rows before it leaves empty ones out
	}
	splits := packing && c.PackingStrategy != BFD
	if over := n - c.MaxLength; over > 0 && c.MaxLength != NoMaxLength && !splits {
		switch c.ExcessLengthStrategy {
		case "raise":
			return e, false, fmt.Errorf("sft: row %d has %d tokens, MaxLength is %d: raise MaxLength, or let ExcessLengthStrategy truncate or drop", r.Rows, n, c.MaxLength)
		case "drop":
			r.TooLong++
			r.TokensLost += n
			return e, false, nil
		}
		r.Truncated++
		r.TokensLost += over
		cut := e.labels[c.MaxLength:]
		if c.TruncationMode == KeepEnd && !packing { // packing keeps the start, as TRL's does
			cut = e.labels[:over]
			e.ids, e.labels = e.ids[over:], e.labels[over:]
		} else {
			e.ids, e.labels = e.ids[:c.MaxLength], e.labels[:c.MaxLength]
		}
		r.LabelsLost += training.CountLabels(cut)
	}
	if !packing && !e.trained() { // packed, it stays as TRL keeps it: the row's other documents have labels
		r.FullyMasked++
		return e, false, nil
	}
	return e, true, nil
}

// measure counts what the rows hold.
func (d *dataset) measure(r *DataReport) {
	for _, row := range d.rows {
		r.Examples += len(row)
		r.Tokens += row.length()
		d.length = max(d.length, row.length())
		for _, e := range row {
			for _, l := range e.labels[1:] { // the first token has nothing before it that could predict it
				if l != Ignored {
					r.Labels++
				}
			}
		}
	}
	r.BatchRows = len(d.rows)
}

// log says what a user should know before training starts.
func (r *DataReport) log(c SFTConfig, name string, took time.Duration) {
	log := c.Logger.With("dataset", name)
	log.Info("data set prepared", "rows", r.Rows, "examples", r.Examples, "batch_rows", r.BatchRows, "tokens", r.Tokens, "labels", r.Labels, "cached", r.Cached, "seconds", took.Seconds())
	if r.Truncated+r.TooLong > 0 {
		log.Warn("rows are longer than MaxLength", "max_length", c.MaxLength, "truncated", r.Truncated, "dropped", r.TooLong,
			"percent_of_rows", 100*float64(r.Truncated+r.TooLong)/float64(r.Rows), "tokens_lost", r.TokensLost, "labels_lost", r.LabelsLost)
	}
	if r.FullyMasked+r.Empty > 0 {
		log.Warn("rows without anything to train were left out", "fully_masked", r.FullyMasked, "empty", r.Empty)
	}
	if r.twoBOS > 0 {
		log.Warn("texts begin with two BOS tokens: they bring their own and the tokenizer adds one; remove it from the texts", "rows", r.twoBOS)
	}
	if r.PromptNotPrefix > 0 {
		log.Warn("prompts are tokenized differently alone than before their completions; the completion is trained from where they part, so the model sees another context than in use: end prompts on a token boundary, or use a chat template that renders them alike",
			"rows", r.PromptNotPrefix, "end_of_a_prompt", r.divergence)
	}
}

// fingerprint identifies the rows: ids, labels and documents. A resumed run must see the same ones.
func (d *dataset) fingerprint() string {
	if d.id != "" {
		return d.id
	}
	h := sha256.New()
	write := func(v any) { _ = binary.Write(h, binary.LittleEndian, v) } // a hash takes everything
	for _, row := range d.rows {
		write(int64(len(row)))
		for _, e := range row {
			write(int64(len(e.ids)))
			write(e.ids)
			write(e.labels)
		}
	}
	d.id = hex.EncodeToString(h.Sum(nil)[:16])
	return d.id
}
