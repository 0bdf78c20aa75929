package sft

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// DataReport says what preparation made of a data set.
type DataReport struct {
	Rows        int `json:"rows"`         // rows given
	Examples    int `json:"examples"`     // examples trained on: documents of packed rows, pieces of split ones
	BatchRows   int `json:"batch_rows"`   // rows that batches are made of: examples, or packed rows
	Truncated   int `json:"truncated"`    // examples cut to MaxLength
	TokensLost  int `json:"tokens_lost"`  // tokens cut off them, or left out with them (ExcessLengthStrategy "drop")
	TooLong     int `json:"too_long"`     // examples left out because of their length
	FullyMasked int `json:"fully_masked"` // examples left out because no token of theirs has a label
	Empty       int `json:"empty"`        // examples without tokens
	Tokens      int `json:"tokens"`       // tokens of an epoch
	Labels      int `json:"labels"`       // labels of an epoch
	// PromptNotPrefix counts examples whose prompt is tokenized otherwise alone than before its completion.
	PromptNotPrefix int `json:"prompt_not_prefix"`
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
	length int    // of the longest row
	id     string // what fingerprint has found
}

// prepare is TRL's pipeline: tokenize, truncate, drop, shuffle and pack.
func prepare(rows []Row, tok Tokenizer, c SFTConfig, packing bool, name string) (*dataset, *DataReport, error) {
	if len(rows) == 0 {
		return nil, nil, fmt.Errorf("sft: the %s data set has no rows", name)
	}
	start := time.Now()
	t, err := newRowTokenizer(tok, rows[0], c)
	if err != nil {
		return nil, nil, err
	}
	examples, err := t.all(rows)
	if err != nil {
		return nil, nil, err
	}
	report := &DataReport{Rows: len(rows)}
	examples, err = report.fit(examples, c, packing)
	if err != nil {
		return nil, nil, err
	}
	if packing && c.ShuffleDataset {
		permute(examples, newStream(c.Seed, streamDataset, 0))
	}
	d := &dataset{packed: packing}
	if packing {
		d.rows = pack(examples, c.MaxLength, c.PackingStrategy)
	} else {
		for _, e := range examples {
			d.rows = append(d.rows, packedRow{e})
		}
	}
	if c.ShuffleDataset {
		permute(d.rows, newStream(c.Seed, streamDataset, 1))
	}
	d.measure(report)
	if report.Labels == 0 {
		return nil, nil, fmt.Errorf("sft: no token of the %s data set has a label to train (%d rows, %d fully masked): check the masks, and whether prompts fill MaxLength %d", name, report.Rows, report.FullyMasked, c.MaxLength)
	}
	if c.AssistantOnlyLoss && t.format.conversational() && !t.stopTrained() {
		c.Logger.Warn("the chat template leaves the end of the assistant's turns untrained, so the model may not learn to stop: put the end-of-turn token inside the part that it marks")
	}
	report.log(c, examples, name, time.Since(start))
	return d, report, nil
}

// all tokenizes every row, on all cores. The error names the first row that cannot be.
func (t *rowTokenizer) all(rows []Row) ([]example, error) {
	examples := make([]example, len(rows))
	errs := make([]error, len(rows))
	var next atomic.Int64
	var failed atomic.Bool
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(rows)) {
		workers.Go(func() {
			for !failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= len(rows) {
					return
				}
				if examples[i], errs[i] = t.tokenize(rows[i]); errs[i] != nil {
					failed.Store(true)
				}
				examples[i].row = i + 1
			}
		})
	}
	workers.Wait()
	for i, err := range errs { // every row before the first fault has been seen: rows are handed out in order
		if err != nil {
			return nil, fmt.Errorf("sft: row %d: %w", i+1, err)
		}
	}
	return examples, nil
}

// fit brings examples to MaxLength and drops those that train nothing.
func (r *DataReport) fit(examples []example, c SFTConfig, packing bool) (kept []example, err error) {
	splits := packing && c.PackingStrategy != BFD
	for i, e := range examples {
		n := len(e.ids)
		if e.diverges != "" {
			r.PromptNotPrefix++
		}
		if n == 0 {
			r.Empty++
			continue
		}
		if over := n - c.MaxLength; over > 0 && c.MaxLength != NoMaxLength && !splits {
			switch c.ExcessLengthStrategy {
			case "raise":
				return nil, fmt.Errorf("sft: row %d has %d tokens, MaxLength is %d: raise MaxLength, or let ExcessLengthStrategy truncate or drop", i+1, n, c.MaxLength)
			case "drop":
				r.TooLong++
				r.TokensLost += n
				continue
			}
			r.Truncated++
			r.TokensLost += over
			e.ids, e.labels = e.ids[:c.MaxLength], e.labels[:c.MaxLength]
		}
		if !packing && !e.trained() { // packed, it stays as TRL keeps it: the row's other documents have labels
			r.FullyMasked++
			continue
		}
		kept = append(kept, e)
	}
	return kept, nil
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
func (r *DataReport) log(c SFTConfig, examples []example, name string, took time.Duration) {
	log := c.Logger.With("dataset", name)
	log.Info("data set prepared", "rows", r.Rows, "examples", r.Examples, "batch_rows", r.BatchRows, "tokens", r.Tokens, "labels", r.Labels, "seconds", took.Seconds())
	if r.Truncated+r.TooLong > 0 {
		log.Warn("rows are longer than MaxLength", "max_length", c.MaxLength, "truncated", r.Truncated, "dropped", r.TooLong,
			"percent_of_rows", 100*float64(r.Truncated+r.TooLong)/float64(r.Rows), "tokens_lost", r.TokensLost)
	}
	if r.FullyMasked+r.Empty > 0 {
		log.Warn("rows without anything to train were left out", "fully_masked", r.FullyMasked, "empty", r.Empty)
	}
	twoBOS := 0
	for _, e := range examples {
		if e.twoBOS {
			twoBOS++
		}
	}
	if twoBOS > 0 {
		log.Warn("texts begin with two BOS tokens: they bring their own and the tokenizer adds one; remove it from the texts", "rows", twoBOS)
	}
	for _, e := range examples {
		if e.diverges != "" {
			log.Warn("prompts are tokenized differently alone than before their completions; the completion is trained from where they part, so the model sees another context than in use: end prompts on a token boundary, or use a chat template that renders them alike",
				"rows", r.PromptNotPrefix, "end_of_a_prompt", e.diverges)
			break
		}
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
