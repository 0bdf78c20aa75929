package sft

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"github.com/loris-ml/loris/internal/atomicfile"
	"github.com/loris-ml/loris/internal/mapfile"
)

// A file of SFTConfig.TokenCache holds the examples of a data set before truncation and packing:
//
//	magic        16 bytes; the number in it grows whenever rows are tokenized in another way
//	body         for each example its ids, then its labels: int32, little endian
//	index        for each example a uint32: its length · 4 + flags
//	footer       JSON: tokenCacheFooter
//	length       uint32, of the footer
//	sum          SHA-256 of all before it
//
// Its name is the key: a hash of the rows, the tokenizer and its chat template, and of the settings that rows are tokenized
// by. A file appears when it is whole, so that runs may write the same one at a time: the last one stays.
const tokenCacheMagic = "loris tokens 01\n"

const (
	flagDiverges = 1
	flagTwoBOS   = 2
)

type tokenCacheFooter struct {
	Examples   int    `json:"examples"`
	Tokens     int    `json:"tokens"`
	Divergence string `json:"divergence"` // of the first prompt that is tokenized otherwise before its completion
}

// tokens are the examples of all rows: from the cache if SFTConfig.TokenCache asks for one, whose file d then holds.
func (t *rowTokenizer) tokens(data *Dataset, d *dataset, report *DataReport) (iter.Seq2[example, error], error) {
	if t.cfg.TokenCache == "" {
		return t.all(data), nil
	}
	key, err := t.cacheKey(data)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(t.cfg.TokenCache, key+".tokens")
	examples, file, err := openTokens(path)
	switch {
	case err == nil:
		report.Cached = true
	case !errors.Is(err, fs.ErrNotExist):
		t.cfg.Logger.Warn("a file of the token cache cannot be used and is made anew", "file", path, "error", err)
	}
	if err != nil {
		if err := t.writeTokens(path, t.all(data)); err != nil {
			return nil, err
		}
		if examples, file, err = openTokens(path); err != nil {
			return nil, fmt.Errorf("sft: SFTConfig.TokenCache: %s, just written: %w", path, err)
		}
	}
	d.cache = file
	runtime.AddCleanup(d, func(f *mapfile.File) { _ = f.Close() }, file) // nothing was written through it
	return examples, nil
}

// cacheKey hashes all that examples depend on.
func (t *rowTokenizer) cacheKey(data *Dataset) (string, error) {
	tok, ok := t.tok.(interface{ Fingerprint() (string, error) })
	if !ok {
		return "", fmt.Errorf("sft: SFTConfig.TokenCache is %q, but a %T has no method Fingerprint() (string, error) to tell what it does; unset it", t.cfg.TokenCache, t.tok)
	}
	if f := t.cfg.FormattingFunc; f != nil && t.format == plainText {
		data = data.Map(func(r Row) (Row, error) {
			text, err := f(r)
			return Row{"text": text}, err
		})
	}
	rows, err := data.Fingerprint()
	if err != nil {
		return "", fmt.Errorf("sft: %w", err)
	}
	does, err := tok.Fingerprint()
	if err != nil {
		return "", fmt.Errorf("sft: %w", err)
	}
	day := ""
	if c, ok := t.tok.(interface{ ChatTemplate() string }); ok && t.format.conversational() && strings.Contains(c.ChatTemplate(), "strftime_now") {
		day = time.Now().Format(time.DateOnly) // what such templates print
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s%s %s %s %d %t %t %t %q %q %q", tokenCacheMagic, rows, does, day, t.format, t.completionOnly,
		t.cfg.AssistantOnlyLoss, t.cfg.LastTurnOnlyLoss, t.cfg.DatasetTextField, t.eos, t.template))
	return hex.EncodeToString(key[:16]), nil
}

// writeTokens writes a file of the cache.
func (t *rowTokenizer) writeTokens(path string, examples iter.Seq2[example, error]) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return fmt.Errorf("sft: SFTConfig.TokenCache: %w", err)
	}
	var ofRow error
	err := atomicfile.Write(path, func(out io.Writer) error {
		w := newSummedWriter(out)
		w.write([]byte(tokenCacheMagic))
		var footer tokenCacheFooter
		var index []byte
		for e, err := range examples {
			if err != nil {
				ofRow = err
				return err
			}
			if len(e.ids) >= 1<<30 {
				ofRow = fmt.Errorf("sft: row %d has %d tokens, too many for SFTConfig.TokenCache; unset it", footer.Examples+1, len(e.ids))
				return ofRow
			}
			entry := uint32(len(e.ids)) << 2
			if e.twoBOS {
				entry |= flagTwoBOS
			}
			if e.diverges != "" {
				entry |= flagDiverges
				if footer.Divergence == "" {
					footer.Divergence = e.diverges
				}
			}
			w.numbers(e.ids)
			w.numbers(e.labels)
			index = binary.LittleEndian.AppendUint32(index, entry)
			footer.Examples++
			footer.Tokens += len(e.ids)
		}
		encoded, err := json.Marshal(footer)
		if err != nil {
			return err
		}
		w.write(index)
		w.write(encoded)
		w.write(binary.LittleEndian.AppendUint32(nil, uint32(len(encoded))))
		return w.finish()
	})
	if ofRow != nil {
		return ofRow
	}
	if err != nil {
		return fmt.Errorf("sft: SFTConfig.TokenCache: %w", err)
	}
	return nil
}

// summedWriter writes and hashes what it writes. It keeps its first error.
type summedWriter struct {
	out  *bufio.Writer
	sum  hash.Hash
	buf  []byte
	fail error
}

func newSummedWriter(out io.Writer) *summedWriter {
	return &summedWriter{out: bufio.NewWriterSize(out, 1<<20), sum: sha256.New()}
}

func (w *summedWriter) write(b []byte) {
	if w.fail == nil {
		w.sum.Write(b)
		_, w.fail = w.out.Write(b)
	}
}

func (w *summedWriter) numbers(list []int32) {
	w.buf = w.buf[:0]
	for _, v := range list {
		w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(v))
	}
	w.write(w.buf)
}

// finish writes the sum.
func (w *summedWriter) finish() error {
	if w.fail == nil {
		_, w.fail = w.out.Write(w.sum.Sum(nil))
	}
	return errors.Join(w.fail, w.out.Flush())
}

// openTokens reads a file of the cache. The examples' slices are parts of the file's memory. One that is not what was
// written is an error.
func openTokens(path string) (iter.Seq2[example, error], *mapfile.File, error) {
	file, err := mapfile.Open(path)
	if err != nil {
		return nil, nil, err
	}
	examples, err := parseTokens(file.Bytes())
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return examples, file, nil
}

func parseTokens(content []byte) (iter.Seq2[example, error], error) {
	body, sum := cutEnd(content, sha256.Size)
	if !bytes.HasPrefix(body, []byte(tokenCacheMagic)) || sum == nil {
		return nil, errors.New("it is no file of tokens")
	}
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return nil, errors.New("its checksum is wrong")
	}
	var footer tokenCacheFooter
	body, length := cutEnd(body, 4)
	body, encoded := cutEnd(body, int(binary.LittleEndian.Uint32(length)))
	if err := json.Unmarshal(encoded, &footer); err != nil {
		return nil, err
	}
	body, index := cutEnd(body, 4*footer.Examples)
	if len(index) != 4*footer.Examples || len(body) != len(tokenCacheMagic)+8*footer.Tokens {
		return nil, errors.New("its parts do not fit together")
	}
	body = body[len(tokenCacheMagic):]
	return func(yield func(example, error) bool) {
		rest := body
		for at := 0; at < len(index); at += 4 {
			entry := binary.LittleEndian.Uint32(index[at:])
			n := int(entry >> 2)
			e := example{ids: int32s(rest[:4*n]), labels: int32s(rest[4*n : 8*n]), row: at/4 + 1, twoBOS: entry&flagTwoBOS != 0}
			if entry&flagDiverges != 0 {
				e.diverges = footer.Divergence
			}
			rest = rest[8*n:]
			if !yield(e, nil) {
				return
			}
		}
	}, nil
}

// cutEnd cuts the last n bytes off; nil if there are fewer.
func cutEnd(b []byte, n int) (before, end []byte) {
	if n > len(b) {
		return b, nil
	}
	return b[:len(b)-n], b[len(b)-n:]
}

// int32s are the numbers in little-endian bytes, without a copy where the machine has them so.
func int32s(b []byte) []int32 {
	n := len(b) / 4
	if n == 0 {
		return nil
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return unsafe.Slice((*int32)(unsafe.Pointer(&b[0])), n) // files are mapped to whole pages, and every part is a multiple of 4
	}
	list := make([]int32, n)
	for i := range list {
		list[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return list
}
