package dataset

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// load reads a file both ways: into memory and as a stream.
func load(t *testing.T, path string) ([]Row, error) {
	t.Helper()
	d, err := Load(t.Context(), path, Options{})
	if err != nil {
		return nil, err
	}
	s, err := Load(t.Context(), path, Options{Streaming: true})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := d.Rows()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // a stream begins anew
		streamed, err := s.Rows()
		if err != nil || !reflect.DeepEqual(rows, streamed) {
			t.Fatalf("streamed %v (%v), want %v", streamed, err, rows)
		}
	}
	return rows, nil
}

// wantError requires an error that says all of the given.
func wantError(t *testing.T, err error, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one that says %q", says)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error %q does not say %q", err, s)
		}
	}
}

func TestLoadReadsLinesAndArrays(t *testing.T) {
	want := []Row{{"text": "a ☃"}, {"n": int64(3), "x": 2.5, "l": []any{int64(1), "b", nil, map[string]any{"k": true}}}}
	line1, line2 := `{"text": "a ☃"}`, `{"n": 3, "x": 2.5, "l": [1, "b", null, {"k": true}]}`
	for _, c := range []struct{ name, file, text string }{
		{"lines", "a.jsonl", line1 + "\n" + line2 + "\n"},
		{"no newline at the end", "a.ndjson", line1 + "\n" + line2},
		{"byte order mark, blank lines, CRLF", "a.jsonl", "\ufeff\r\n" + line1 + "\r\n\r\n  \t\r\n" + line2 + "\r\n\r\n"},
		{"array", "a.json", "[" + line1 + ",\n\n " + line2 + "]\n"},
		{"array after a byte order mark", "a.JSON", "\ufeff\n [\n" + line1 + "," + line2 + "\n]"},
		{"array with brackets in texts", "a.json", `[ {"text": "a ☃"} , {"n": 3, "x": 2.5, "l": [1, "b", null, {"k": true}]}]`},
		{"array across lines", "a.json", "[{\n\"text\":\n\"a ☃\"},\n{\"n\": 3, \"x\": 2.5,\n \"l\": [1, \"b\",\n null, {\"k\": true}]}]"},
		{"lines in a .json file", "a.json", line1 + "\n" + line2},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := load(t, write(t, c.file, c.text))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestLoadReadsHugeLines(t *testing.T) {
	long := strings.Repeat("ab ", 2<<20)
	rows, err := load(t, write(t, "a.jsonl", `{"text": "`+long+`"}`+"\n"+`{"text": "b"}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[0]["text"] != long {
		t.Errorf("%d rows; the first is not the long text", len(rows))
	}
}

func TestLoadNamesFileLineAndColumn(t *testing.T) {
	for _, c := range []struct {
		name, file, text string
		says             []string
	}{
		{"syntax", "a.jsonl", "{\"text\": \"a\"}\n\n{\"text\": b}\n", []string{"a.jsonl", "line 3, column 10", "malformed JSON"}},
		{"column in characters", "a.jsonl", "{\"text\": \"☃☃\" x}", []string{"line 1, column 15"}},
		{"cut short", "a.jsonl", "{\"text\": \"a\"}\n{\"text\": ", []string{"line 2, column 10", "ends too early"}},
		{"two values", "a.jsonl", "{\"text\": \"a\"} {\"text\": \"b\"}", []string{"line 1, column", "more text", "one object per line"}},
		{"not an object", "a.jsonl", "{\"text\": \"a\"}\n\"b\"", []string{"line 2, column 1", "the row is a text", "want an object"}},
		{"list among lines", "a.jsonl", "{\"text\": \"a\"}\n[1]", []string{"line 2", "the row is a list"}},
		{"not UTF-8", "a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"\xff\"}", []string{"line 2, column 11", "0xff", "UTF-8"}},
		{"array syntax", "a.json", "[\n{\"text\": \"a\"},\n{\"text\" \"b\"}\n]", []string{"line 3, column 9", "malformed JSON"}},
		{"array cut short", "a.json", "[\n{\"text\": \"a\"},\n", []string{"line 3, column 1", "ends too early"}},
		{"array without a comma", "a.json", "[{\"text\": \"a\"}\n {\"text\": \"b\"}]", []string{"line 2, column 3", "more text"}},
		{"text behind an array", "a.json", "[{\"text\": \"a\"}]\n x", []string{"line 2, column 2", "more text"}},
		{"brackets do not match", "a.json", "[{\"text\": \"a\"]", []string{"line 1, column 14", "malformed"}},
		{"comma at the end", "a.json", "[{\"text\": \"a\"},]", []string{"element 2"}},
		{"array element", "a.json", "[{\"text\": \"a\"}, 3]", []string{"element 2", "the row is 3"}},
		{"empty", "a.jsonl", "", []string{"a.jsonl", "no rows"}},
		{"blank", "a.jsonl", "\n \n", []string{"no rows"}},
		{"empty array", "a.json", "[]", []string{"no rows"}},
		{"extension", "a.bin", "a,b", []string{"a.bin", `".bin"`, ".jsonl"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, write(t, c.file, c.text))
			wantError(t, err, c.says...)
		})
	}
	_, err := load(t, filepath.Join(t.TempDir(), "missing.jsonl"))
	wantError(t, err, "missing.jsonl", "no such file")
}

func TestLoadReadsRealQuestionsAndAnswers(t *testing.T) {
	folder := os.Getenv("LORIS_TEST_FAQ")
	if folder == "" {
		t.Skip("set LORIS_TEST_FAQ to the folder of faq_en.json")
	}
	path := filepath.Join(folder, "faq_en.json")
	rows, err := load(t, path)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range rows {
		if m, err := r.Messages("messages"); err != nil || len(m) < 2 {
			t.Fatalf("row %d: %v %v", i+1, m, err)
		}
	}
	t.Logf("%d rows", len(rows))
}

func TestMessagesTakesShareGPT(t *testing.T) {
	row := Row{"conversations": []any{map[string]any{"from": "human", "value": "Hi"}, map[string]any{"role": "gpt", "content": "Ho"}}}
	got, err := row.Messages("conversations")
	if err != nil {
		t.Fatal(err)
	}
	want := []Message{{"role": "human", "content": "Hi"}, {"role": "gpt", "content": "Ho"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if first := row["conversations"].([]any)[0].(map[string]any); first["from"] != "human" {
		t.Errorf("the row has changed: %v", first)
	}
}

// The vectors of trl/tests/test_data_utils.py (maybe_convert_to_chatml): the same renaming in every column of messages.
func TestMessagesEqualTRLsConversion(t *testing.T) {
	shareGPT := `[{"from": "user", "value": "What color is the sky?"}, {"from": "assistant", "value": "It is blue."}]`
	chatML := `[{"role": "user", "content": "What color is the sky?"}, {"role": "assistant", "content": "It is blue."}]`
	want := []Message{{"role": "user", "content": "What color is the sky?"}, {"role": "assistant", "content": "It is blue."}}
	for _, column := range []string{"conversations", "messages", "prompt", "completion"} {
		for _, messages := range []string{shareGPT, chatML} {
			var row Row
			if err := json.Unmarshal([]byte(`{"`+column+`": `+messages+`}`), &row); err != nil {
				t.Fatal(err)
			}
			got, err := row.Messages(column)
			if err != nil || !reflect.DeepEqual(got, want) || !row.IsConversation(column) {
				t.Errorf("%s of %s: %v (%v)", column, messages, got, err)
			}
		}
	}
	for _, row := range []Row{{"messages": "The sky is"}, {"messages": []any{"a"}}, {"messages": []any{}}, {"messages": []any{map[string]any{"from": "user"}}}, {}} {
		if row.IsConversation("messages") {
			t.Errorf("%v counts as a conversation", row)
		}
	}
}

func FuzzDecodeRow(f *testing.F) {
	for _, s := range []string{`{"text": "a"}`, `[1]`, "{\"a\": \xff}", `{"n": 1e999, "m": 12345678901234567890}`, "", "{", `{"a" 1}`, "nul"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		row, err := decodeRow(text)
		if (row == nil) == (err == nil) {
			t.Fatalf("row %v, error %v", row, err)
		}
		if err != nil && !strings.HasPrefix(located(err, text, 1, 1).Error(), "line ") {
			t.Fatal(located(err, text, 1, 1))
		}
	})
}
