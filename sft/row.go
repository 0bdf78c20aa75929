package sft

import (
	"context"

	source "github.com/loris-ml/loris/dataset"
)

// Row is one row of a data set: columns by name; see package dataset. The trainer understands rows with these columns; the
// first row decides for all:
//
//	{"text": "…"}                                              plain text (SFTConfig.DatasetTextField)
//	{"prompt": "…", "completion": "…"}                         texts, or lists of messages
//	{"messages": [{"role": "user", "content": "…"}, …]}        a conversation
//	{"conversations": [{"from": "user", "value": "…"}, …]}     ShareGPT: becomes messages
//	{"input_ids": […], "labels": […]}                          tokenized already; instead of labels, completion_mask and
//	                                                           assistant_masks, or none of them
//
// Conversational rows may also have tools (a list, or JSON text of one) and chat_template_kwargs (an object).
type Row = source.Row

// Message is one turn of a conversation: role, content, and what else the chat template reads.
type Message = source.Message

// Dataset is a sequence of rows: those of files or of a hub data set (dataset.Load), of Go values (FromRows) or of an
// iterator (dataset.FromSeq), and what their transformations make of them; see package dataset.
type Dataset = source.Dataset

// FromRows is a data set of rows in memory.
func FromRows(rows []Row) *Dataset { return source.FromRows(rows) }

// LoadJSONL reads the rows of a JSON file into memory: JSON lines (.jsonl, .ndjson) or an array of objects (.json). Other
// files, folders, hub data sets and streams are read by dataset.Load. The error names the file, and the line and column of what
// is malformed.
func LoadJSONL(path string) (*Dataset, error) {
	return source.Load(context.Background(), path, source.Options{Format: source.JSON})
}
