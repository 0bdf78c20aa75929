package dataset

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"time"
)

// Fingerprint identifies the content: 64 hexadecimal digits that two data sets share only if they have the same rows in the
// same order. That of files is made of their bytes and of how they are read, that of their transformations of the
// transformation's arguments; rows in memory, and those that functions make (Map, Filter, FromSeq), are gone through.
func (d *Dataset) Fingerprint() (string, error) {
	if d.print != nil {
		return d.print()
	}
	h := sha256.New()
	index := 0
	for row, err := range d.All() {
		if err != nil {
			return "", err
		}
		if err := hashValue(h, map[string]any(row)); err != nil {
			return "", rowError("Fingerprint", index, err)
		}
		index++
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// printed sets the fingerprint of a stream made from another data set by something that its arguments describe. Rows in
// memory are hashed themselves.
func (d *Dataset) printed(from *Dataset, what string, args ...any) *Dataset {
	if d.Streaming() && from.print != nil {
		d.print = printOf([]*Dataset{from}, what, args...)
	}
	return d
}

// printOf combines fingerprints of data sets with what is done with them.
func printOf(sets []*Dataset, what string, args ...any) func() (string, error) {
	return func() (string, error) {
		h := sha256.New()
		fmt.Fprintf(h, "%s %q", what, fmt.Sprint(args...))
		for _, d := range sets {
			print, err := d.Fingerprint()
			if err != nil {
				return "", err
			}
			fmt.Fprintf(h, " %s", print)
		}
		return hex.EncodeToString(h.Sum(nil)), nil
	}
}

// filesPrint is the fingerprint of files that are read in one way.
func filesPrint(files []string, how string) func() (string, error) {
	return func() (string, error) {
		h := sha256.New()
		fmt.Fprintf(h, "files %q %d", how, len(files))
		for _, name := range files {
			sum := sha256.New()
			f, err := os.Open(name)
			if err != nil {
				return "", fmt.Errorf("dataset: %w", err)
			}
			_, err = io.Copy(sum, f)
			if err := f.Close(); err != nil {
				return "", fmt.Errorf("dataset: %w", err)
			}
			if err != nil {
				return "", fmt.Errorf("dataset: %w", err)
			}
			h.Write(sum.Sum(nil))
		}
		return hex.EncodeToString(h.Sum(nil)), nil
	}
}

// hashValue writes a value so that no two different ones write the same.
func hashValue(h hash.Hash, v any) error {
	tagged := func(tag byte, n uint64) { h.Write(binary.LittleEndian.AppendUint64([]byte{tag}, n)) }
	text := func(tag byte, s []byte) { tagged(tag, uint64(len(s))); h.Write(s) }
	switch v := v.(type) {
	case nil:
		tagged('0', 0)
	case bool:
		tagged('b', map[bool]uint64{true: 1}[v])
	case int64:
		tagged('i', uint64(v))
	case int:
		tagged('i', uint64(v))
	case float64:
		tagged('f', math.Float64bits(v))
	case string:
		text('s', []byte(v))
	case []byte:
		text('y', v)
	case json.RawMessage:
		text('j', v)
	case time.Time:
		text('t', []byte(v.Format(time.RFC3339Nano)))
	case []int32:
		tagged('I', uint64(len(v)))
		return binary.Write(h, binary.LittleEndian, v)
	case map[string]any:
		tagged('{', uint64(len(v)))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			text('s', []byte(k))
			if err := hashValue(h, v[k]); err != nil {
				return err
			}
		}
	case []any:
		tagged('[', uint64(len(v)))
		for _, e := range v {
			if err := hashValue(h, e); err != nil {
				return err
			}
		}
	case []Message:
		tagged('[', uint64(len(v)))
		for _, e := range v {
			if err := hashValue(h, e); err != nil {
				return err
			}
		}
	default:
		encoded, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("a %T has no fingerprint: %w", v, err)
		}
		text('x', fmt.Appendf(nil, "%T %s", v, encoded))
	}
	return nil
}
