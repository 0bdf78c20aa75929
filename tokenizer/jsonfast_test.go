package tokenizer

import (
	"encoding/json"
	"reflect"
	"testing"
	"unicode/utf8"
)

// checkFastJSON holds that what the fast readers accept is what encoding/json reads.
func checkFastJSON(t *testing.T, raw []byte) (vocabularyRead, mergesRead bool) {
	t.Helper()
	if !json.Valid(raw) || !utf8.Valid(raw) {
		return
	}
	n := node{file: "t.json", raw: raw}
	fast, vocabularyRead := fastVocabulary(raw)
	if vocabularyRead {
		if slow, err := decodeVocabulary(n); err != nil || !reflect.DeepEqual(fast, slow) {
			t.Errorf("%s: %v, want %v (%v)", raw, fast, slow, err)
		}
	}
	pairs, mergesRead := fastMerges(raw)
	if mergesRead {
		if slow, err := decodeMerges(n); err != nil || len(pairs)+len(slow) > 0 && !reflect.DeepEqual(pairs, slow) {
			t.Errorf("%s: %q, want %q (%v)", raw, pairs, slow, err)
		}
	}
	return vocabularyRead, mergesRead
}

var fastJSON = []struct {
	raw                string
	vocabulary, merges bool
}{
	{`{}`, true, false},
	{` { "a" : 0 , "b":1} `, true, false},
	{`{"\u0120":0,"\"\\\/\b\f\n\r\t":1,"\ud83d\ude00":2,"日本":3}`, true, false},
	{`{"a":3,"b":1}`, true, false},
	{`{"a":70000}`, true, false},
	{`{"a":16777216}`, false, false},
	{`{"a":1.0}`, false, false},
	{`{"a":1e2}`, false, false},
	{`{"a":-1}`, false, false},
	{`{"a":null}`, false, false},
	{`{"a":[1]}`, false, false},
	{`{"a":0,"b":0}`, false, false},
	{`{"a":0,"a":1}`, false, false},
	{`{"\ud83d":0}`, false, false},
	{`{"":0,"b":0}`, false, false},
	{`[]`, false, true},
	{`["a b", "\u0120 c"]`, false, true},
	{`[ [ "a" , "b" ] , ["c d","\n"]]`, false, true},
	{`["a b",["c","d"]]`, false, false},
	{`["ab"]`, false, false},
	{`["a b c"]`, false, false},
	{`[["a"]]`, false, false},
	{`[["a","b","c"]]`, false, false},
	{`[1]`, false, false},
	{`null`, false, false},
	{`"a"`, false, false},
	{`12`, false, false},
}

func TestFastReadersEqualEncodingJSON(t *testing.T) {
	for _, c := range fastJSON {
		if v, m := checkFastJSON(t, []byte(c.raw)); v != c.vocabulary || m != c.merges {
			t.Errorf("%s: read as vocabulary %v, merges %v", c.raw, v, m)
		}
	}
}

func FuzzFastJSON(f *testing.F) {
	for _, c := range fastJSON {
		f.Add([]byte(c.raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		checkFastJSON(t, raw)
		var fields map[string]json.RawMessage
		if json.Unmarshal(raw, &fields) != nil || len(raw) == 0 {
			return
		}
		got := map[string]json.RawMessage{}
		if eachField(raw, func(key, value []byte) bool { got[string(key)] = value; return true }) && utf8.Valid(raw) {
			if len(got)+len(fields) > 0 && !reflect.DeepEqual(got, fields) {
				t.Errorf("%s: %s, want %s", raw, got, fields)
			}
		}
	})
}
