package dataset

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/loris-ml/loris/hub"
)

// Values of Options.Format.
const (
	JSON    = "json" // lines (.jsonl, .ndjson) or an array (.json)
	CSV     = "csv"
	Parquet = "parquet"
	Arrow   = "arrow" // streams, as datasets writes into its cache and by save_to_disk
	Text    = "text"
)

// Options says how Load finds and reads rows. The zero value is the common case.
type Options struct {
	// Format is JSON, CSV, Parquet, Arrow or Text. "": by the extension: .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, .txt,
	// also with .gz or .zst behind.
	Format string
	// Streaming reads rows anew in every pass, in constant memory, instead of once into memory.
	Streaming bool
	// Columns are read, and no others. nil: all.
	Columns []string

	// Split is read of a folder or a hub data set. "" is train.
	Split string
	// Name is the configuration of a hub data set that has several. "" is its default.
	Name string
	// Revision is a branch, a tag or a commit of a hub data set. "" is main.
	Revision string
	// Download lets Load bring a hub data set into the cache, with the settings in Hub. Without, it must be there.
	Download bool
	// Hub says from where it is downloaded; Dataset, Revision and Files are set by Load.
	Hub hub.Options

	// Field of the one object that a JSON file then is has the rows: an array of objects, or an object of columns (field of
	// datasets). Such files are read into memory, also when streaming. "": the file has the rows.
	Field string

	// SampleBy cuts text into rows: "" or SampleByLine, SampleByParagraph or SampleByDocument.
	SampleBy string
	// Delimiter of CSV. 0 is a comma, or a tab in .tsv files.
	Delimiter rune
	// InferTypes gives columns of CSV the types that datasets gives them, by the first 10,000 rows: whole numbers (int64), numbers
	// (float64, also whole ones where values are missing), truth values (bool) or text; NA, null, None and the like are nil. Without
	// it every cell is text, and only an empty one is nil.
	InferTypes bool
}

// Load reads rows from
//
//	a file                      rows.jsonl, rows.json.gz
//	files of a pattern          data/part-*.parquet, in the order of their names
//	a folder                    the files of Options.Split in it, as load_dataset(folder) finds them, or save_to_disk(folder) left them
//	a hub data set              organization/name, in the caches of huggingface_hub (see package hub) or datasets
//
// JSON is one object a line, or an array of objects; CSV has a header line and cells that are all text (but see Options.InferTypes); a row of text has the
// column text. The network is used only where Options.Download allows it. An error names the file, and the line and column
// of what is malformed. Files without any row are an error, unless they stream.
func Load(ctx context.Context, path string, o Options) (*Dataset, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	files, err := o.find(ctx, path)
	if err != nil {
		return nil, err
	}
	reader, err := o.fileReader(files)
	if err != nil {
		return nil, err
	}
	stream := FromSeq(func(yield func(Row, error) bool) {
		for _, file := range files {
			if !reader.read(ctx, file, yield) {
				return
			}
		}
	})
	stream.print = filesPrint(files, fmt.Sprint(reader.format, o.Columns, o.SampleBy, o.Delimiter, o.Field, o.InferTypes))
	if o.Streaming {
		return stream, nil
	}
	loaded, err := stream.Collect()
	if err != nil {
		return nil, err
	}
	if n, err := loaded.Len(); err == nil && n == 0 {
		return nil, fmt.Errorf("dataset: %s: the file has no rows; want %s", strings.Join(files, ", "), formats[reader.format].want)
	}
	return loaded, nil
}

func (o Options) validate() error {
	if _, ok := formats[o.Format]; !ok && o.Format != "" {
		return fmt.Errorf("dataset: Options.Format is %q; want %s, %s, %s, %s or %s", o.Format, JSON, CSV, Parquet, Arrow, Text)
	}
	switch o.SampleBy {
	case "", SampleByLine, SampleByParagraph, SampleByDocument:
	default:
		return fmt.Errorf("dataset: Options.SampleBy is %q; want %s, %s or %s", o.SampleBy, SampleByLine, SampleByParagraph, SampleByDocument)
	}
	return nil
}

// formats are the known ones: how a stream of bytes is read, nil for one that needs the file itself.
var formats = map[string]struct {
	read func(io.Reader, Options, func(Row) bool) error
	want string
}{
	JSON:    {readJSON, "one JSON object per line"},
	CSV:     {readCSV, "a header line and a line for each row"},
	Parquet: {nil, "rows"},
	Arrow:   {readArrow, "rows"},
	Text:    {readText, "lines of text"},
}

// extensions tell the format.
var extensions = map[string]string{
	".jsonl": JSON, ".ndjson": JSON, ".json": JSON, ".csv": CSV, ".tsv": CSV, ".parquet": Parquet, ".arrow": Arrow, ".txt": Text,
}

// extension is that of a file's name without .gz or .zst, which is the compression.
func extension(file string) (ext, compression string) {
	name := strings.ToLower(filepath.Base(file))
	ext = filepath.Ext(name)
	if ext == ".gz" || ext == ".zst" {
		compression = ext
		ext = filepath.Ext(strings.TrimSuffix(name, ext))
	}
	return ext, compression
}

// fileReader reads files of one format.
type fileReader struct {
	Options
	format string
}

// fileReader settles the format of files.
func (o Options) fileReader(files []string) (*fileReader, error) {
	r := &fileReader{o, o.Format}
	ext, compression := extension(files[0])
	if r.format == "" {
		r.format = extensions[ext]
	}
	if r.format == "" {
		return nil, fmt.Errorf("dataset: %s: the extension is %q; want a .jsonl, .json, .csv, .tsv, .parquet, .arrow or .txt file, or set Options.Format", files[0], ext)
	}
	if r.format == Parquet && compression != "" {
		return nil, fmt.Errorf("dataset: %s: Parquet is compressed inside; want the file without %s", files[0], compression)
	}
	if o.Field != "" && r.format != JSON {
		return nil, fmt.Errorf("dataset: %s: Options.Field is %q, which JSON has; the format is %s", files[0], o.Field, r.format)
	}
	if ext == ".tsv" && o.Delimiter == 0 {
		r.Delimiter = '\t'
	}
	return r, nil
}

// read yields a file's rows, or an error that names it. It reports whether more are wanted.
func (r *fileReader) read(ctx context.Context, file string, yield func(Row, error) bool) (more bool) {
	more = true
	row := 0
	err := r.rows(file, func(values Row) bool {
		if row++; row%1024 == 0 && ctx.Err() != nil {
			return false
		}
		values, err := r.selected(values)
		if err != nil {
			yield(nil, fmt.Errorf("dataset: %s: row %d: %w", file, row, err))
			more = false
			return false
		}
		more = yield(values, nil)
		return more
	})
	if err == nil && more {
		err = ctx.Err()
	}
	if err != nil {
		if more {
			yield(nil, fmt.Errorf("dataset: %s: %w", file, err))
		}
		return false
	}
	return more
}

// selected keeps the columns that are to be read.
func (r *fileReader) selected(row Row) (Row, error) {
	if r.Columns == nil || r.format == Parquet || r.format == Arrow {
		return row, nil
	}
	out := make(Row, len(r.Columns))
	for _, name := range r.Columns {
		v, ok := row[name]
		if !ok {
			return nil, fmt.Errorf("column %q is missing (the row has %s)", name, quoted(row.Columns()))
		}
		out[name] = v
	}
	return out, nil
}

func (r *fileReader) rows(file string, yield func(Row) bool) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if r.format == Parquet {
		return readParquet(f, r.Options, yield)
	}
	in, closeIn, err := decompressed(f, file)
	if err != nil {
		return err
	}
	defer closeIn()
	return formats[r.format].read(in, r.Options, yield)
}

// decompressed undoes the compression that the name of a file tells.
func decompressed(f *os.File, file string) (io.Reader, func(), error) {
	switch _, compression := extension(file); compression {
	case ".gz":
		z, err := gzip.NewReader(f)
		return z, func() {}, err
	case ".zst":
		z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return f, func() {}, nil
}
