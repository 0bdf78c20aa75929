package dataset

import (
	"bufio"
	"crypto/sha1"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
)

func gitHash(content string) string {
	return fmt.Sprintf("%x", sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(content), content)))
}

// largeSize is that of the files of the memory test.
func largeSize() int {
	if os.Getenv("LORIS_TEST_LONG") != "" {
		return 200 << 20
	}
	return 12 << 20
}

// writeLarge writes rows of about a kilobyte, and returns how many.
func writeLarge(t *testing.T, path string) (rows int) {
	t.Helper()
	text := func(i int) string { return fmt.Sprintf("%d ", i) + strings.Repeat("constant memory ", 64) }
	rows = largeSize() / len(text(0))
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	switch filepath.Ext(path) {
	case ".parquet":
		type row struct {
			Text string `parquet:"text"`
		}
		p := parquet.NewGenericWriter[row](w, parquet.MaxRowsPerRowGroup(1000))
		for i := range rows {
			if _, err := p.Write([]row{{text(i)}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	case ".json":
		for i := range rows {
			fmt.Fprintf(w, "%s{\"text\": %q}", map[bool]string{true: "[", false: ","}[i == 0], text(i))
		}
		w.WriteString("]")
	case ".jsonl":
		for i := range rows {
			fmt.Fprintf(w, "{\"text\": %q}\n", text(i))
		}
	case ".csv", ".txt":
		w.WriteString("text\n")
		for i := range rows {
			w.WriteString(text(i) + "\n")
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestStreamsRunInConstantMemory(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	for _, ext := range []string{".jsonl", ".json", ".csv", ".txt", ".parquet"} {
		t.Run(ext, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "large"+ext)
			want := writeLarge(t, path)
			if ext == ".txt" {
				want++ // what is a header in .csv
			}
			d, err := Load(t.Context(), path, Options{Streaming: true})
			if err != nil {
				t.Fatal(err)
			}
			d = d.Filter(func(r Row) (bool, error) { return true, nil }).ShuffleBuffer(1, 500)
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			before, peak, n := m.HeapAlloc, uint64(0), 0
			for row, err := range d.All() {
				if err != nil {
					t.Fatal(err)
				}
				if n++; n%500 == 0 {
					runtime.ReadMemStats(&m)
					peak = max(peak, m.HeapAlloc)
				}
				_ = row
			}
			if n != want {
				t.Errorf("%d rows, want %d", n, want)
			}
			grown := int64(peak) - int64(before)
			t.Logf("%d MB read, the heap grew by at most %.1f MB", largeSize()>>20, float64(grown)/(1<<20))
			if grown > 9<<20 {
				t.Errorf("the heap grew by %d bytes over %d rows of 1 KB", grown, n)
			}
		})
	}
}
