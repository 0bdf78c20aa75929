package dataset

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// fixture is what testdata/make.py has recorded of datasets.
type fixture struct {
	Shuffles []struct {
		Rows, Buffer int
		Seed         int64
		Want         []int64
	}
	Splits []struct {
		Rows    int
		Options struct {
			TestSize  float64 `json:"test_size"`
			TrainSize float64 `json:"train_size"`
			Seed      int64
			Shuffle   *bool
		}
		Train, Test []int64
	}
	Interleaves []struct {
		Lengths   []int
		Strategy  StoppingStrategy
		P         []float64
		Streaming bool
		Want      []int64
	}
	Texts []struct {
		Text, By string
		Want     []string
	}
	Fields []struct {
		Text, Field string
		Want        []json.RawMessage
	}
	CSVs []struct {
		Text string
		Want []map[string][2]string // type and value
	}
	Folders []struct {
		Name   string
		Files  []string
		Readme string
		Config string
		Want   map[string][]string
	}
}

func readFixture(t *testing.T) (f fixture) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "datasets.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	if len(f.Shuffles)*len(f.Splits)*len(f.Interleaves)*len(f.Texts)*len(f.Folders)*len(f.Fields)*len(f.CSVs) == 0 {
		t.Fatal("the fixture is not whole")
	}
	return f
}

// numbered has rows that hold their numbers, from start on.
func numbered(n, start int, streaming bool) *Dataset {
	var rows []Row
	for i := range n {
		rows = append(rows, Row{"n": int64(start + i)})
	}
	d := FromRows(rows)
	if streaming {
		d = FromSeq(d.All())
	}
	return d
}

func numbers(t *testing.T, d *Dataset) []int64 {
	t.Helper()
	rows, err := d.Rows()
	if err != nil {
		t.Fatal(err)
	}
	list := []int64{}
	for _, row := range rows {
		list = append(list, row["n"].(int64))
	}
	return list
}

func TestShuffleEqualsDatasets(t *testing.T) {
	for _, c := range readFixture(t).Shuffles {
		d := numbered(c.Rows, 0, c.Buffer > 0)
		shuffled := d.Shuffle(c.Seed)
		if c.Buffer > 0 {
			shuffled = d.ShuffleBuffer(c.Seed, c.Buffer)
		}
		for range 2 {
			if got := numbers(t, shuffled); !slices.Equal(got, c.Want) {
				t.Errorf("%d rows, seed %d, buffer %d: %v, datasets %v", c.Rows, c.Seed, c.Buffer, got, c.Want)
			}
		}
	}
}

func TestTrainTestSplitEqualsDatasets(t *testing.T) {
	for _, c := range readFixture(t).Splits {
		o := SplitOptions{TestSize: c.Options.TestSize, TrainSize: c.Options.TrainSize, Seed: c.Options.Seed, NoShuffle: c.Options.Shuffle != nil && !*c.Options.Shuffle}
		train, test, err := numbered(c.Rows, 0, false).TrainTestSplit(o)
		if err != nil {
			t.Fatal(err)
		}
		if got := numbers(t, train); !slices.Equal(got, c.Train) {
			t.Errorf("%d rows, %+v: training %v, datasets %v", c.Rows, o, got, c.Train)
		}
		if got := numbers(t, test); !slices.Equal(got, c.Test) {
			t.Errorf("%d rows, %+v: testing %v, datasets %v", c.Rows, o, got, c.Test)
		}
	}
}

func TestInterleaveEqualsDatasets(t *testing.T) {
	for _, c := range readFixture(t).Interleaves {
		var sets []*Dataset
		for i, n := range c.Lengths {
			sets = append(sets, numbered(n, 100*i, c.Streaming))
		}
		d, err := Interleave(sets, InterleaveOptions{Probabilities: c.P, Seed: 11, StoppingStrategy: c.Strategy})
		if err != nil {
			t.Fatal(err)
		}
		if got := numbers(t, d); !slices.Equal(got, c.Want) {
			t.Errorf("%v, %s, p %v, streaming %v:\n     got %v\ndatasets %v", c.Lengths, c.Strategy, c.P, c.Streaming, got, c.Want)
		}
	}
}

func TestTextEqualsDatasets(t *testing.T) {
	for _, c := range readFixture(t).Texts {
		path := write(t, "a.txt", c.Text)
		d, err := Load(t.Context(), path, Options{SampleBy: c.By, Streaming: true})
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for row, err := range d.All() {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, row["text"].(string))
		}
		if !slices.Equal(got, c.Want) {
			t.Errorf("%q by %s: %q, datasets %q", c.Text, c.By, got, c.Want)
		}
	}
}

func TestFoldersAreReadAsByDatasets(t *testing.T) {
	for _, c := range readFixture(t).Folders {
		t.Run(c.Name, func(t *testing.T) {
			dir := t.TempDir()
			put := func(name, text string) {
				file := filepath.Join(dir, filepath.FromSlash(name))
				if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range c.Files {
				text := fmt.Sprintf("{\"file\": %q}\n", name)
				if filepath.Ext(name) == ".csv" {
					text = "file\n" + name + "\n"
				}
				put(name, text)
			}
			if c.Readme != "" {
				put(readmeFile, c.Readme)
			}
			for split, want := range c.Want {
				d, err := Load(t.Context(), dir, Options{Split: split, Name: c.Config})
				if err != nil {
					t.Fatal(err)
				}
				rows, err := d.Rows()
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, row := range rows {
					got = append(got, row["file"].(string))
				}
				slices.Sort(want) // datasets reads the files of several patterns pattern by pattern
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Errorf("split %s: %q, datasets %q", split, got, want)
				}
			}
			_, err := Load(t.Context(), dir, Options{Split: "none", Name: c.Config})
			wantError(t, err, `no split "none"`, `"train"`, "Options.Split")
		})
	}
}

// readRows reads the rows that rows.json or added.json has, decoded from JSON.
func readRows(t *testing.T, name string) (rows []map[string]any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 {
		t.Fatal("no rows")
	}
	return rows
}

func TestParquetAndArrowEqualDatasets(t *testing.T) {
	for _, file := range []string{"rows.parquet", "rows.arrow"} {
		want := readRows(t, "rows.json")
		if file == "rows.arrow" {
			for i, more := range readRows(t, "added.json") {
				maps.Copy(want[i], more)
			}
		}
		d, err := Load(t.Context(), filepath.Join("testdata", file), Options{})
		if err != nil {
			t.Fatal(err)
		}
		rows, err := d.Rows()
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) != len(want) {
			t.Fatalf("%s: %d rows, datasets %d", file, len(rows), len(want))
		}
		for i, row := range rows {
			if bytes, ok := row["raw"].([]byte); ok {
				list := []int{}
				for _, b := range bytes {
					list = append(list, int(b))
				}
				row["raw"] = list
			}
			text, err := json.Marshal(row)
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want[i]) {
				t.Errorf("%s, row %d:\n     got %s\ndatasets %v", file, i, text, want[i])
			}
		}
	}
}

func TestPreparedDataSetsAreFoundInTheCacheOfDatasets(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("HF_DATASETS_CACHE", cache)
	t.Setenv("HF_HUB_CACHE", t.TempDir())
	rows, err := os.ReadFile(filepath.Join("testdata", "rows.arrow"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "Some-Org___my_chats", "default", "0.0.0", "abcdef")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"my_chats-train.arrow": rows, "my_chats-test.arrow": rows, "cache-0123.arrow": []byte("no"), "dataset_info.json": []byte("{}")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"", "default"} {
		d, err := Load(t.Context(), "Some-Org/MyChats", Options{Streaming: true, Name: name, Columns: []string{"text", "messages"}})
		if err != nil {
			t.Fatal(err)
		}
		if n, err := d.Len(); err != nil || n != len(readRows(t, "rows.json")) {
			t.Errorf("%d rows (%v)", n, err)
		}
		if row, err := d.First(); err != nil || len(row) != 2 {
			t.Errorf("columns %v (%v)", row.Columns(), err)
		}
	}
	_, err = Load(t.Context(), "Some-Org/MyChats", Options{Name: "other"})
	wantError(t, err, "not in the cache")
}

func TestParquetAndArrowKeepTheOrderThatTemplatesPrint(t *testing.T) {
	for _, file := range []string{"rows.parquet", "rows.arrow"} {
		checkOrder(t, file)
	}
}

func checkOrder(t *testing.T, file string) {
	t.Helper()
	d, err := Load(t.Context(), filepath.Join("testdata", file), Options{Streaming: true, Columns: []string{"messages", "tools"}})
	if err != nil {
		t.Fatal(err)
	}
	tools, calls := 0, 0
	for row, err := range d.All() {
		if err != nil {
			t.Fatal(err)
		}
		if len(row) != 2 {
			t.Fatalf("columns %v", row.Columns())
		}
		if text, ok := row["tools"].(json.RawMessage); ok && len(text) > 2 {
			tools++
			if want := `"a":["p",null]},{"z":null,"a":[]}]`; string(text[len(text)-len(want):]) != want {
				t.Errorf("tools %s", text)
			}
		}
		messages, err := row.Messages("messages")
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := messages[len(messages)-1]["tool_calls"].(json.RawMessage); ok && len(text) > 2 {
			calls++
			if want := `[{"name":"f<&>","arguments":{"zone":"x","area":2.0}},{"name":null,"arguments":null}]`; string(text) != want {
				t.Errorf("calls %s, want %s", text, want)
			}
		}
	}
	if tools == 0 || calls == 0 {
		t.Errorf("%d rows with tools, %d with calls", tools, calls)
	}
}

func TestRowsInAFieldEqualThoseOfDatasets(t *testing.T) {
	for _, c := range readFixture(t).Fields {
		var want []Row
		for _, text := range c.Want {
			row, err := decodeRow(text)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, row)
		}
		for _, streaming := range []bool{false, true} {
			d, err := Load(t.Context(), write(t, "a.json", c.Text), Options{Field: c.Field, Streaming: streaming})
			if err != nil {
				t.Fatalf("%s: %v", c.Text, err)
			}
			if rows, err := d.Rows(); err != nil || !reflect.DeepEqual(rows, want) {
				t.Errorf("%s: %v (%v), datasets %v", c.Text, rows, err, want)
			}
		}
	}
}

func TestInferredTypesOfCSVEqualThoseOfDatasets(t *testing.T) {
	inPython := func(v any) [2]string {
		switch v := v.(type) {
		case nil:
			return [2]string{"NoneType", "None"}
		case bool:
			return [2]string{"bool", map[bool]string{true: "True", false: "False"}[v]}
		case int64:
			return [2]string{"int", fmt.Sprint(v)}
		case float64:
			return [2]string{"float", fmt.Sprint(v)}
		}
		return [2]string{"str", v.(string)}
	}
	for _, c := range readFixture(t).CSVs {
		d, err := Load(t.Context(), write(t, "a.csv", c.Text), Options{InferTypes: true})
		if err != nil {
			t.Fatalf("%q: %v", c.Text, err)
		}
		rows, err := d.Rows()
		if err != nil || len(rows) != len(c.Want) {
			t.Fatalf("%q: %d rows, error %v, datasets %d", c.Text, len(rows), err, len(c.Want))
		}
		for i, want := range c.Want {
			for name, value := range want {
				got := inPython(rows[i][name])
				if f, err := strconv.ParseFloat(value[1], 64); err == nil && value[0] == "float" {
					value[1] = fmt.Sprint(f)
				}
				if got != value {
					t.Errorf("%q, row %d: %s is %v, datasets %v", c.Text, i+1, name, got, value)
				}
			}
		}
	}
}

func TestLaterRowsOfCSVKeepTheTypesOfTheFirst(t *testing.T) {
	text := "n,word\n" + strings.Repeat("1,2a\n", csvChunk) + "3,4\n"
	d, err := Load(t.Context(), write(t, "a.csv", text), Options{InferTypes: true})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := d.Rows()
	if err != nil || len(rows) != csvChunk+1 || rows[csvChunk]["n"] != int64(3) || rows[csvChunk]["word"] != "4" {
		t.Errorf("%d rows, last %v, error %v", len(rows), rows[len(rows)-1], err)
	}
	_, err = Load(t.Context(), write(t, "a.csv", text+"x,5\n"), Options{InferTypes: true})
	wantError(t, err, "a.csv", "line 10003", `column "n" has "x"`, "whole numbers", "InferTypes")
}
