package dataset

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/loris-ml/loris/hub"
)

func TestLoadReadsCSV(t *testing.T) {
	for name, c := range map[string]struct {
		file, text string
		o          Options
		want       []Row
	}{
		"quotes, empty cells, CRLF": {"a.csv", "\ufeffprompt,completion\r\n\"a, \"\"b\"\"\nc\",007\r\n,None\r\n", Options{},
			[]Row{{"prompt": "a, \"b\"\nc", "completion": "007"}, {"prompt": nil, "completion": "None"}}},
		"tabs":            {"a.tsv", "text\tn\nx, y\t1\n", Options{}, []Row{{"text": "x, y", "n": "1"}}},
		"other delimiter": {"a.csv", "text;n\nx, y;1\n", Options{Delimiter: ';'}, []Row{{"text": "x, y", "n": "1"}}},
		"columns":         {"a.csv", "text,n\nx,1\n", Options{Columns: []string{"text"}}, []Row{{"text": "x"}}},
		"by its format":   {"a.dat", "text\nx\n", Options{Format: CSV}, []Row{{"text": "x"}}},
	} {
		d, err := Load(t.Context(), write(t, c.file, c.text), c.o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := d.Rows(); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v (%v), want %v", name, got, err, c.want)
		}
	}
}

func TestLoadNamesWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name, file, text string
		o                Options
		says             []string
	}{
		{"format", "a.csv", "a\nb\n", Options{Format: "xml"}, []string{"Options.Format", `"xml"`, "parquet"}},
		{"sample by", "a.txt", "a\n", Options{SampleBy: "word"}, []string{"Options.SampleBy", `"word"`, "paragraph"}},
		{"CSV without a header", "a.csv", "", Options{}, []string{"a.csv", "header"}},
		{"CSV of one name twice", "a.csv", "a,b,a\n1,2,3\n", Options{}, []string{"column 3", `"a"`}},
		{"CSV with a cell too many", "a.csv", "a,b\n1,2\n1,2,3\n", Options{}, []string{"a.csv", "line 3", "3 cells", "2 columns"}},
		{"CSV not in UTF-8", "a.csv", "a,b\n1,\xe4\n", Options{}, []string{"line 2, column 3", "0xe4"}},
		{"CSV without rows", "a.csv", "a,b\n", Options{}, []string{"a.csv", "no rows"}},
		{"text not in UTF-8", "a.txt", "ok\nno \xff\n", Options{}, []string{"a.txt", "line 2", "0xff"}},
		{"no Parquet", "a.parquet", "PAR1 nonsense PAR1", Options{}, []string{"a.parquet", "malformed Parquet"}},
		{"no Arrow", "a.arrow", "nonsense", Options{}, []string{"a.arrow", "malformed Arrow"}},
		{"Arrow with an index", "a.arrow", "ARROW1\x00\x00", Options{}, []string{"a.arrow", "Arrow stream"}},
		{"Parquet in gzip", "a.parquet.gz", "x", Options{}, []string{"a.parquet.gz", "compressed inside"}},
		{"no gzip", "a.jsonl.gz", "{}", Options{}, []string{"a.jsonl.gz", "gzip"}},
		{"missing field", "a.json", `{"data": [], "version": 1}`, Options{Field: "rows"}, []string{"a.json", "Options.Field", `"rows"`, `"data"`, `"version"`}},
		{"field that is no rows", "a.json", "{\n\"data\": 3}", Options{Field: "data"}, []string{"a.json", "line 2", `"data"`, "it is 3"}},
		{"field without an object", "a.json", `[{"a": 1}]`, Options{Field: "data"}, []string{"a.json", "line 1", "malformed JSON"}},
		{"field with malformed rows", "a.json", "{\"data\": [\n{\"a\": 1},\n3]}", Options{Field: "data"}, []string{"a.json", "line 3", "element 2", "the row is 3"}},
		{"columns of two lengths", "a.json", `{"data": {"a": [1, 2], "b": [3]}}`, Options{Field: "data"}, []string{"a.json", `"b"`, "1 values", `"a" 2`}},
		{"field of CSV", "a.csv", "a\n1\n", Options{Field: "data"}, []string{"a.csv", "Options.Field", "csv"}},
		{"missing column", "a.jsonl", `{"text": "a"}`, Options{Columns: []string{"txt"}}, []string{"a.jsonl", "row 1", `"txt"`, `"text"`}},
		{"extension", "a.bin", "x", Options{}, []string{"a.bin", `".bin"`, ".jsonl"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(t.Context(), write(t, c.file, c.text), c.o)
			wantError(t, err, c.says...)
		})
	}
	_, err := Load(t.Context(), filepath.Join("testdata", "rows.parquet"), Options{Columns: []string{"txt"}})
	wantError(t, err, "rows.parquet", `"txt"`, `"messages"`)
	_, err = Load(t.Context(), filepath.Join(t.TempDir(), "*.jsonl"), Options{})
	wantError(t, err, "no file matches")
	_, err = Load(t.Context(), t.TempDir(), Options{})
	wantError(t, err, "no data files", ".jsonl")
}

func TestLoadRefusesShardsThatAreNotAllThere(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 2} {
		name := filepath.Join(dir, "data", fmt.Sprintf("train-%05d-of-00003.jsonl", n))
		if err := os.WriteFile(name, []byte(`{"text": "a"}`), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Load(t.Context(), dir, Options{})
	wantError(t, err, "2 of 3 files", "train-*-of-00003.jsonl")
}

func TestLoadReadsCompressedFilesAndPatterns(t *testing.T) {
	dir := t.TempDir()
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	if _, err := z.Write([]byte(`{"text": "one"}` + "\n")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"part-1.jsonl.gz": gz.Bytes(), "part-2.jsonl.zst": enc.EncodeAll([]byte(`{"text": "two"}`), nil), "part-3.jsonl": []byte(`{"text": "three"}`)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	d, err := Load(t.Context(), filepath.Join(dir, "part-*"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := d.Rows()
	if want := []Row{{"text": "one"}, {"text": "two"}, {"text": "three"}}; err != nil || !reflect.DeepEqual(rows, want) {
		t.Errorf("%v (%v), want %v", rows, err, want)
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	path := write(t, "a.jsonl", strings.Repeat("{\"text\": \"a\"}\n", 5000))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d, err := Load(ctx, path, Options{Streaming: true})
	if err != nil {
		t.Fatal(err)
	}
	n, failed := 0, error(nil)
	for _, err := range d.All() {
		if failed = err; err != nil {
			break
		}
		if n++; n == 10 {
			cancel()
		}
	}
	if !errors.Is(failed, context.Canceled) || n >= 5000 {
		t.Errorf("%d rows, error %v", n, failed)
	}
}

// serveDataset is a hub with the data set org/rows.
func serveDataset(t *testing.T, files map[string]string) (o hub.Options, asked *[]string) {
	t.Helper()
	const commit = "0123456789abcdef0123456789abcdef01234567"
	asked = &[]string{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/datasets/org/rows/revision/main" {
			var siblings []map[string]string
			for name := range files {
				siblings = append(siblings, map[string]string{"rfilename": name})
			}
			if err := json.NewEncoder(w).Encode(map[string]any{"sha": commit, "siblings": siblings}); err != nil {
				t.Error(err)
			}
			return
		}
		name := strings.TrimPrefix(r.URL.Path, "/datasets/org/rows/resolve/"+commit+"/")
		content, ok := files[name]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		*asked = append(*asked, r.Method+" "+name)
		w.Header().Set("Etag", gitHash(content))
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		if _, err := w.Write([]byte(content)); err != nil && r.Method != http.MethodHead {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return hub.Options{Endpoint: server.URL}, asked
}

func TestLoadFindsHubDataSetsInTheCacheAndDownloadsOnlyWhenAsked(t *testing.T) {
	t.Setenv("HF_HUB_CACHE", t.TempDir())
	o, asked := serveDataset(t, map[string]string{
		"README.md":                           "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n  - split: test\n    path: data/test-*\n---\n",
		"data/train-00000-of-00002.jsonl":     `{"text": "a"}`,
		"data/train-00001-of-00002.jsonl":     `{"text": "b"}`,
		"data/test-00000-of-00001.jsonl":      `{"text": "c"}`,
		"images/a [large] file of no use.bin": "x",
	})
	_, err := Load(t.Context(), "org/rows", Options{Hub: o})
	wantError(t, err, `"org/rows"`, "not in the cache", "Options.Download")
	if len(*asked) > 0 {
		t.Fatalf("requests %q without being asked", *asked)
	}
	check := func(o Options, want ...string) {
		t.Helper()
		d, err := Load(t.Context(), "org/rows", o)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := d.Rows()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, row := range rows {
			got = append(got, row["text"].(string))
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	check(Options{Download: true, Hub: o}, "a", "b")
	for _, r := range *asked {
		if strings.Contains(r, "test") || strings.Contains(r, "images") {
			t.Errorf("request %s for a file of another split", r)
		}
	}
	check(Options{}, "a", "b") // offline
	check(Options{Download: true, Hub: o, Split: "test"}, "c")
	check(Options{Split: "test"}, "c")
	_, err = Load(t.Context(), "org/rows", Options{Split: "dev"})
	wantError(t, err, `no split "dev"`, `"test", "train"`)
	_, err = Load(t.Context(), "org/rows", Options{Name: "ja"})
	wantError(t, err, `no configuration "ja"`, `"default"`)
}

func TestDamagedFilesNeverPanic(t *testing.T) {
	for _, file := range []string{"rows.parquet", "rows.arrow"} {
		whole, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		random := rand.New(rand.NewPCG(1, 2))
		refused := 0
		for i := range 200 {
			broken := bytes.Clone(whole)
			for range 1 + random.IntN(3) {
				within := len(broken)
				if file == "rows.arrow" && i%2 == 0 {
					within = 4000 // the schema
				}
				broken[random.IntN(within)] ^= byte(1 + random.IntN(255))
			}
			if i%10 == 0 {
				broken = broken[:random.IntN(len(broken))]
			}
			if _, err := Load(t.Context(), write(t, "a"+filepath.Ext(file), string(broken)), Options{}); err != nil {
				refused++
			}
		}
		t.Logf("%d of 200 damaged files %s are refused", refused, file)
	}
}
