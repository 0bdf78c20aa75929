package sft

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/loris-ml/loris/internal/atomicfile"
)

// Files of SFTConfig.ReportTo in OutputDir.
const (
	jsonlFile = "metrics.jsonl"
	csvFile   = "metrics.csv"
	runsDir   = "runs" // TensorBoard's, as transformers names it
)

// JSONLines writes every line of the log as one JSON object per line, for what follows a run from outside.
func JSONLines(w io.Writer) Callback {
	return Callback{OnLog: func(e *Event) error { return json.NewEncoder(w).Encode(e.Metrics) }}
}

// CSV keeps the log as a table in a file: a column per metric, step first, empty where a line has none. A resumed run goes
// on behind the steps of its checkpoint.
func CSV(path string) Callback {
	columns := []string{"step", "epoch"}
	table := func(lines [][]string) []byte {
		var out bytes.Buffer
		w := csv.NewWriter(&out)
		_ = w.WriteAll(lines) // into memory
		return out.Bytes()
	}
	row := func(m Metrics) []string {
		cells := make([]string, len(columns))
		for _, e := range m {
			cells[slices.Index(columns, e.Name)] = strconv.FormatFloat(e.Value, 'g', -1, 64)
		}
		return cells
	}
	extend := func(m Metrics) (extended bool) {
		for _, e := range m {
			if !slices.Contains(columns, e.Name) {
				columns, extended = append(columns, e.Name), true
			}
		}
		return extended
	}
	return logFile(path, logFormat{
		whole: func(history []Metrics) []byte {
			for _, m := range history {
				extend(m)
			}
			lines := [][]string{columns}
			for _, m := range history {
				lines = append(lines, row(m))
			}
			return table(lines)
		},
		line: func(m Metrics) ([]byte, bool) {
			if extend(m) {
				return nil, false
			}
			return table([][]string{row(m)}), true
		},
	})
}

// jsonlLog is JSONLines into a file that a resumed run goes on with.
func jsonlLog(path string) Callback {
	line := func(m Metrics) ([]byte, bool) {
		text, _ := json.Marshal(m) // log has refused what is no number
		return append(text, '\n'), true
	}
	return logFile(path, logFormat{
		whole: func(history []Metrics) (text []byte) {
			for _, m := range history {
				l, _ := line(m)
				text = append(text, l...)
			}
			return text
		},
		line: line,
	})
}

// logFormat is how a file of the log looks.
type logFormat struct {
	whole func(history []Metrics) []byte
	line  func(m Metrics) (text []byte, ok bool) // not ok: the lines before look otherwise now
}

// logFile keeps a file of the log.
func logFile(path string, f logFormat) Callback {
	var file *os.File
	closed := func() error {
		if file == nil {
			return nil
		}
		err := file.Close()
		file = nil
		return err
	}
	rewrite := func(history []Metrics) (err error) {
		if err := closed(); err != nil {
			return fmt.Errorf("sft: %w", err)
		}
		if err := atomicfile.WriteBytes(path, f.whole(history)); err != nil {
			return err
		}
		if file, err = os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o666); err != nil {
			return fmt.Errorf("sft: %w", err)
		}
		return nil
	}
	return Callback{
		OnTrainBegin: func(e *Event) error { return rewrite(e.State.LogHistory) },
		OnLog: func(e *Event) error {
			text, ok := f.line(e.Metrics)
			if !ok || file == nil {
				return rewrite(e.State.LogHistory)
			}
			if _, err := file.Write(text); err != nil {
				return fmt.Errorf("sft: %w", err)
			}
			return nil
		},
		close: closed,
	}
}

// reporters are the values of SFTConfig.ReportTo.
var reporters = map[string]func(c SFTConfig) Callback{
	"tensorboard": func(c SFTConfig) Callback { return TensorBoard(filepath.Join(c.OutputDir, runsDir, c.RunName)) },
	"jsonl":       func(c SFTConfig) Callback { return jsonlLog(filepath.Join(c.OutputDir, jsonlFile)) },
	"csv":         func(c SFTConfig) Callback { return CSV(filepath.Join(c.OutputDir, csvFile)) },
}

func reportNames() []string { return []string{"tensorboard", "jsonl", "csv", "all", "none"} }

// reports are the callbacks of ReportTo.
func (c SFTConfig) reports() (cs callbacks) {
	for _, name := range reportNames() {
		if make, ok := reporters[name]; ok && (slices.Contains(c.ReportTo, name) || slices.Contains(c.ReportTo, "all")) {
			cs = append(cs, make(c))
		}
	}
	return cs
}

// close lets callbacks release what they hold; it comes last, also after an error.
func (cs callbacks) close() (err error) {
	for _, c := range cs {
		if c.close != nil {
			err = errors.Join(err, c.close())
		}
	}
	return err
}
