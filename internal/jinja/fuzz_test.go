package jinja

import (
	"encoding/json"
	"testing"
	"time"
	"unicode/utf8"
)

func addFeatures(f *testing.F, add func(source string)) {
	var all []struct{ T string }
	readJSON(f, "testdata/features.golden.json", &all)
	for _, c := range all {
		add(c.T)
	}
	for _, source := range readConversations(f, "testdata/trl.golden.json.gz").Templates {
		add(source)
	}
}

// checkFault fails on errors that only a fault of this package gives.
func checkFault(t *testing.T, source string, err error) {
	t.Helper()
	if e, ok := err.(*Error); err != nil && (!ok || e.Kind == KindInternal || e.Message == "" && e.Kind != KindRaised) {
		t.Fatalf("%q: %v", source, err)
	}
}

func FuzzParse(f *testing.F) {
	addFeatures(f, func(source string) { f.Add(source) })
	f.Fuzz(func(t *testing.T, source string) {
		start := time.Now()
		_, err := Parse("fuzz", source)
		checkFault(t, source, err)
		if d := time.Since(start); d > 5*time.Second {
			t.Fatalf("parsing took %v", d)
		}
	})
}

func FuzzRender(f *testing.F) {
	const vars = `{"x": null, "i": 7, "neg": -3, "big": 123456789012345678901234567890, "fl": 2.5, "s": "Hello", "uni": "é中👍", "d": {"b": 1, "a": "z"},
		"l": [3, 1, 2], "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}]}`
	addFeatures(f, func(source string) { f.Add(source, vars) })
	f.Fuzz(func(t *testing.T, source, vars string) {
		tmpl, err := Parse("fuzz", source)
		if err != nil {
			return
		}
		var m map[string]json.RawMessage
		if json.Unmarshal([]byte(vars), &m) != nil {
			return
		}
		all := map[string]any{}
		for k, v := range m {
			all[k] = v
		}
		start := time.Now()
		const most = 1 << 20
		r, err := tmpl.Render(all, Options{Clock: clock, MaxSteps: 50_000, MaxOutput: most})
		if _, ok := err.(*Error); err == nil || ok {
			checkFault(t, source, err)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Fatalf("rendering took %v", d)
		}
		if len(r.Text) > most || !utf8.ValidString(r.Text) {
			t.Fatalf("%d bytes, valid: %v", len(r.Text), utf8.ValidString(r.Text))
		}
		for _, s := range r.Generation {
			if s[0] < 0 || s[0] > s[1] || s[1] > len(r.Text) || !utf8.ValidString(r.Text[s[0]:s[1]]) {
				t.Fatalf("span %v of %q", s, r.Text)
			}
		}
	})
}
