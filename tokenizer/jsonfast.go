package tokenizer

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// A tokenizer.json is some megabytes of vocabulary and merges. encoding/json checks the file once; what is below then reads the
// two in one pass each, without reflection and with one allocation for all their texts. Where anything is unusual it gives up,
// and encoding/json reads, or says what is wrong.

// readDocument splits a tokenizer.json into its components.
func readDocument(root node) (d document, err error) {
	if !json.Valid(root.raw) || !utf8.Valid(root.raw) {
		return d, root.decode(&d)
	}
	return d, root.decodeBut(&d, map[string]*json.RawMessage{"model": &d.Model})
}

// readModelFields decodes the model's fields, of which the two large ones stay as they are.
func readModelFields(n node) (f modelFields, err error) {
	return f, n.decodeBut(&f, map[string]*json.RawMessage{"vocab": &f.Vocab, "merges": &f.Merges})
}

// decodeBut fills v from an object that is valid JSON, but only points to its large fields, which are fields of v too.
func (n node) decodeBut(v any, large map[string]*json.RawMessage) error {
	small := []byte{'{'}
	values := map[string][]byte{}
	ok := eachField(n.raw, func(key, value []byte) bool {
		if large[string(key)] != nil {
			values[string(key)] = value
			return true
		}
		if len(small) > 1 {
			small = append(small, ',')
		}
		small = append(append(append(append(small, '"'), key...), `":`...), value...)
		return true
	})
	if !ok {
		return n.decode(v)
	}
	n.raw = append(small, '}')
	err := n.decode(v)
	for key, value := range values {
		*large[key] = value
	}
	return err
}

// eachField calls yield with the keys and values of an object that is valid JSON, until it returns false. It is false too for
// other values, and for keys with escapes.
func eachField(raw []byte, yield func(key, value []byte) bool) bool {
	i := skipBlanks(raw, 0)
	if i == len(raw) || raw[i] != '{' {
		return false
	}
	if i = skipBlanks(raw, i+1); raw[i] == '}' {
		return true
	}
	for {
		end := skipText(raw, i)
		key := raw[i+1 : end-1]
		if bytes.IndexByte(key, '\\') >= 0 {
			return false
		}
		i = skipBlanks(raw, skipBlanks(raw, end)+1) // the colon
		end = skipValue(raw, i)
		if !yield(key, raw[i:end]) {
			return false
		}
		if i = skipBlanks(raw, end); raw[i] == '}' {
			return true
		}
		i = skipBlanks(raw, i+1) // the comma
	}
}

func skipBlanks(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// skipText returns the end of the text whose opening quote is at i.
func skipText(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// skipValue returns the end of the value that begins at i.
func skipValue(b []byte, i int) int {
	depth := 0
	for {
		switch b[i] {
		case '"':
			i = skipText(b, i)
		case '{', '[':
			depth++
			i++
			continue
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\n', '\r', '\t':
			i++
			continue
		default:
			for i < len(b) && !bytes.ContainsRune(endOfScalar, rune(b[i])) {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
}

var endOfScalar = []byte(",:]} \n\r\t")

// texts collects JSON texts, one after the other.
type texts struct {
	bytes []byte
	ends  []int32
}

// add appends the text whose opening quote is at i and returns its end; false for what is left to encoding/json.
func (t *texts) add(b []byte, i int) (int, bool) {
	if i >= len(b) || b[i] != '"' {
		return 0, false
	}
	for i++; ; {
		lo := i
		for b[i] != '"' && b[i] != '\\' {
			i++
		}
		t.bytes = append(t.bytes, b[lo:i]...)
		if b[i] == '"' {
			t.ends = append(t.ends, int32(len(t.bytes)))
			return i + 1, true
		}
		var ok bool
		if i, ok = t.escape(b, i+1); !ok {
			return 0, false
		}
	}
}

// escape appends what the escape after a backslash stands for; i is the character after that.
func (t *texts) escape(b []byte, i int) (int, bool) {
	const plain, meant = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	if k := bytes.IndexByte([]byte(plain), b[i]); k >= 0 {
		t.bytes = append(t.bytes, meant[k])
		return i + 1, true
	}
	r, ok := hexRune(b, i)
	if !ok {
		return 0, false
	}
	i += len("u0000")
	if utf16.IsSurrogate(r) {
		low, ok := hexRune(b, i+1)
		if r = utf16.DecodeRune(r, low); !ok || b[i] != '\\' || r == utf8.RuneError {
			return 0, false
		}
		i += len(`\u0000`)
	}
	t.bytes = utf8.AppendRune(t.bytes, r)
	return i, true
}

// hexRune reads u0041.
func hexRune(b []byte, i int) (rune, bool) {
	if i+5 > len(b) || b[i] != 'u' {
		return 0, false
	}
	r, err := strconv.ParseUint(string(b[i+1:i+5]), 16, 16)
	return rune(r), err == nil
}

// all returns the texts.
func (t *texts) all() []string {
	joined := string(t.bytes)
	out := make([]string, len(t.ends))
	lo := int32(0)
	for i, hi := range t.ends {
		out[i] = joined[lo:hi]
		lo = hi
	}
	return out
}

// maxFastJSON keeps the ends of texts within int32.
const maxFastJSON = 1 << 30

// fastVocabulary reads {"token": id, ...} from valid JSON.
func fastVocabulary(raw []byte) (*vocabulary, bool) {
	i := skipBlanks(raw, 0)
	if len(raw) > maxFastJSON || raw[i] != '{' {
		return nil, false
	}
	t := texts{bytes: make([]byte, 0, len(raw)/2), ends: make([]int32, 0, len(raw)/16)}
	ids := make([]int32, 0, len(raw)/16)
	top := int32(-1)
	for i = skipBlanks(raw, i+1); raw[i] != '}'; {
		var ok bool
		if i, ok = t.add(raw, i); !ok {
			return nil, false
		}
		id := int32(0)
		lo := skipBlanks(raw, skipBlanks(raw, i)+1) // the colon
		for i = lo; '0' <= raw[i] && raw[i] <= '9'; i++ {
			if id = id*10 + int32(raw[i]-'0'); id > maxTokenID {
				return nil, false
			}
		}
		end := skipBlanks(raw, i)
		if i == lo || raw[end] != ',' && raw[end] != '}' {
			return nil, false
		}
		ids = append(ids, id)
		top = max(top, id)
		if i = end; raw[i] == ',' {
			i = skipBlanks(raw, i+1)
		}
	}
	if int(top) > maxVocabularyID(len(ids)) {
		return nil, false
	}
	v := &vocabulary{make(map[string]int32, len(ids)), make([]string, top+1)}
	for k, s := range t.all() {
		if s == "" || v.tokens[ids[k]] != "" {
			return nil, false
		}
		v.tokens[ids[k]] = s
		v.ids[s] = ids[k]
	}
	return v, len(v.ids) == len(ids)
}

// fastMerges reads ["a b", ...] or [["a", "b"], ...] from valid JSON.
func fastMerges(raw []byte) ([][2]string, bool) {
	i := skipBlanks(raw, 0)
	if len(raw) > maxFastJSON || raw[i] != '[' {
		return nil, false
	}
	t := texts{bytes: make([]byte, 0, len(raw)), ends: make([]int32, 0, len(raw)/8)}
	i = skipBlanks(raw, i+1)
	for first := raw[i]; raw[i] != ']'; {
		var ok bool
		if raw[i] != first {
			return nil, false
		}
		if first == '[' {
			i, ok = t.addPair(raw, i)
		} else {
			i, ok = t.addLine(raw, i)
		}
		if !ok {
			return nil, false
		}
		if i = skipBlanks(raw, i); raw[i] == ',' {
			i = skipBlanks(raw, i+1)
		}
	}
	parts := t.all()
	pairs := make([][2]string, len(parts)/2)
	for k := range pairs {
		pairs[k] = [2]string{parts[2*k], parts[2*k+1]}
	}
	return pairs, true
}

func (t *texts) addPair(raw []byte, i int) (int, bool) {
	i, ok := t.add(raw, skipBlanks(raw, i+1))
	if !ok {
		return 0, false
	}
	if i = skipBlanks(raw, i); raw[i] != ',' {
		return 0, false
	}
	if i, ok = t.add(raw, skipBlanks(raw, i+1)); !ok {
		return 0, false
	}
	i = skipBlanks(raw, i)
	return i + 1, raw[i] == ']'
}

func (t *texts) addLine(raw []byte, i int) (int, bool) {
	lo := len(t.bytes)
	i, ok := t.add(raw, i)
	if !ok {
		return 0, false
	}
	line := t.bytes[lo:]
	k := bytes.IndexByte(line, ' ')
	if k < 0 || bytes.IndexByte(line[k+1:], ' ') >= 0 {
		return 0, false
	}
	copy(line[k:], line[k+1:])
	t.bytes = t.bytes[:len(t.bytes)-1]
	t.ends[len(t.ends)-1] = int32(lo + k)
	t.ends = append(t.ends, int32(len(t.bytes)))
	return i, true
}
