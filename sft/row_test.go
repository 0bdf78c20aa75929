package sft

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/tokenizer"
)

func TestToolsAndCallsKeepTheOrderOfTheirKeys(t *testing.T) {
	tok, err := tokenizer.FromPretrained("../tokenizer/testdata/tiny.gguf")
	if err != nil {
		t.Fatal(err)
	}
	const (
		tools = `[{"type":"function","function":{"name":"w","parameters":{"zone":"x","area":1.0,"b":{"z":1,"a":[{"y":2,"c":null}]}}}}]`
		calls = `[{"id":"1","function":{"name":"w","arguments":{"zone":"x","area":1.0}}}]`
		// As json.dumps of json.loads.
		want = `[{"type": "function", "function": {"name": "w", "parameters": {"zone": "x", "area": 1.0, "b": {"z": 1, "a": [{"y": 2, "c": null}]}}}}]` +
			`[{"id": "1", "function": {"name": "w", "arguments": {"zone": "x", "area": 1.0}}}]`
	)
	for name, row := range map[string]string{
		"list":             `{"tools":` + tools + `,"messages":[{"role":"assistant","tool_calls":` + calls + `,"content":"x"}]}`,
		"JSON text":        `{"messages":[{"role":"assistant","content":"x","tool_calls":` + calls + `}],"tools":"` + escaped(tools) + `"}`,
		"array of rows":    `[{"tools":` + tools + `,"messages":[{"role":"assistant","tool_calls":` + calls + `}]}]`,
		"ShareGPT's names": `{"tools":` + tools + `,"messages":[{"from":"assistant","value":"x","tool_calls":` + calls + `}]}`,
	} {
		file := filepath.Join(t.TempDir(), "rows.jsonl")
		if err := os.WriteFile(file, []byte(row), 0o666); err != nil {
			t.Fatal(err)
		}
		rows, err := LoadJSONL(file)
		if err != nil {
			t.Fatal(err)
		}
		row, err := rows.First()
		if err != nil {
			t.Fatal(err)
		}
		messages, err := row.Messages("messages")
		if err != nil {
			t.Fatal(err)
		}
		o, err := new(rowTokenizer).chatOptions(row)
		if err != nil {
			t.Fatal(err)
		}
		o.Template = "{{ tools | tojson }}{{ messages[0].tool_calls | tojson }}"
		got, err := tok.ApplyChatTemplate(messages, o)
		if err != nil || got != want {
			t.Errorf("%s: %v\n got %s\nwant %s", name, err, got, want)
		}
	}
}

func escaped(s string) string { return strings.ReplaceAll(s, `"`, `\"`) }

func TestRowsInJSONAreReadAsThoseOfFiles(t *testing.T) {
	var rows []Row
	if err := json.Unmarshal([]byte(`[{"input_ids": [1, 2], "x": 0.5}]`), &rows); err != nil {
		t.Fatal(err)
	}
	if ids, err := rows[0].Ints("input_ids"); err != nil || !slices.Equal(ids, []int32{1, 2}) || rows[0]["x"] != 0.5 {
		t.Errorf("%v, %v", rows, err)
	}
	wantError(t, json.Unmarshal([]byte(`[3]`), &rows), "want an object")
}
