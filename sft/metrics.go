package sft

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Metric is a named number.
type Metric struct {
	Name  string
	Value float64
}

// Metrics is one line of the log history, in the order in which TRL logs:
//
//	training    loss, grad_norm, learning_rate, entropy, num_tokens, mean_token_accuracy, epoch, step
//	evaluation  eval_loss, eval_perplexity, eval_runtime, eval_samples_per_second, eval_steps_per_second, eval_entropy,
//	            eval_num_tokens, eval_mean_token_accuracy, epoch, step
//	at the end  train_runtime, train_samples_per_second, train_steps_per_second, train_loss, epoch, step
//
// loss is the cross entropy per label in nats, averaged over the steps since the last line; grad_norm and learning_rate
// are the last step's; entropy (nats) and mean_token_accuracy are averaged over micro-steps; num_tokens counts all
// tokens trained on so far but padding. eval_perplexity, which TRL has not, is e to the eval_loss, where that is the cross
// entropy. total_flos is not counted. As JSON it is an object.
type Metrics []Metric

// Get returns a metric's value.
func (m Metrics) Get(name string) (value float64, ok bool) {
	for _, e := range m {
		if e.Name == name {
			return e.Value, true
		}
	}
	return 0, false
}

func (m *Metrics) add(name string, value float64) { *m = append(*m, Metric{name, value}) }

// String lists the metrics as name=value.
func (m Metrics) String() string {
	parts := make([]string, len(m))
	for i, e := range m {
		parts[i] = e.Name + "=" + strconv.FormatFloat(e.Value, 'g', 5, 64)
	}
	return strings.Join(parts, " ")
}

// MarshalJSON writes an object; numbers look as Python writes them.
func (m Metrics) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, e := range m {
		if i > 0 {
			b.WriteByte(',')
		}
		value, err := pythonFloat(e.Value).MarshalJSON()
		if e.Name == "step" {
			value = strconv.AppendInt(nil, int64(e.Value), 10)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name, err)
		}
		fmt.Fprintf(&b, "%q:%s", e.Name, value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// UnmarshalJSON reads an object; the order becomes that of the names, with step last.
func (m *Metrics) UnmarshalJSON(text []byte) error {
	var values map[string]float64
	if err := json.Unmarshal(text, &values); err != nil {
		return err
	}
	*m = nil
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if name != "step" {
			m.add(name, values[name])
		}
	}
	if step, ok := values["step"]; ok {
		m.add("step", step)
	}
	return nil
}

// pythonFloat is a number that JSON shows as Python's repr does: 1.0, 2e-05.
type pythonFloat float64

func (f pythonFloat) MarshalJSON() ([]byte, error) {
	v := float64(f)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil, fmt.Errorf("%v is not a JSON number", v)
	}
	if a := math.Abs(v); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.AppendFloat(nil, v, 'e', -1, 64), nil
	}
	text := strconv.AppendFloat(nil, v, 'f', -1, 64)
	if !bytes.Contains(text, []byte(".")) {
		text = append(text, ".0"...)
	}
	return text, nil
}

// meter sums what is logged between two lines. Its fields are saved, so that a resumed run logs the same numbers.
type meter struct {
	LossSum     float64 `json:"loss_sum"` // of the steps' losses per label
	Steps       int     `json:"steps"`
	EntropySum  float64 `json:"entropy_sum"`  // of the micro-steps' means
	AccuracySum float64 `json:"accuracy_sum"` // of the micro-steps' means
	MicroSteps  int     `json:"micro_steps"`
}

// micro adds the sums of a micro-step with the given number of labels. A batch without labels counts as 0, as in TRL.
func (m *meter) micro(entropy float64, correct, labels int) {
	m.MicroSteps++
	if labels > 0 {
		m.EntropySum += entropy / float64(labels)
		m.AccuracySum += float64(correct) / float64(labels)
	}
}

// batch adds the sums of a batch with the given number of labels: of a micro-step, or of several that were joined.
func (m *meter) batch(s Stats, labels int) {
	if len(s.Joined) == 0 {
		m.micro(s.EntropySum, s.Correct, labels)
	}
	for _, j := range s.Joined {
		m.micro(j.EntropySum, j.Correct, j.Labels)
	}
}

// averages appends entropy, num_tokens and mean_token_accuracy.
func (m *meter) averages(to *Metrics, prefix string, tokens int64) {
	if m.MicroSteps == 0 {
		return
	}
	to.add(prefix+"entropy", m.EntropySum/float64(m.MicroSteps))
	to.add(prefix+"num_tokens", float64(tokens))
	to.add(prefix+"mean_token_accuracy", m.AccuracySum/float64(m.MicroSteps))
}

// round is Python's round to a number of decimals.
func round(v float64, decimals int) float64 {
	r, err := strconv.ParseFloat(strconv.FormatFloat(v, 'f', decimals, 64), 64)
	if err != nil {
		return v
	}
	return r
}
