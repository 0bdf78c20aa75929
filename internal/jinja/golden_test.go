package jinja

import (
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// clock is the time that the goldens were made at.
func clock() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// renderGolden parses and renders; vars is a JSON object.
func renderGolden(t *testing.T, source string, vars ...json.RawMessage) (Result, error) {
	t.Helper()
	tmpl, err := Parse("", source)
	if err != nil {
		return Result{}, err
	}
	all := map[string]any{}
	for _, v := range vars {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(v, &m); err != nil {
			t.Fatal(err)
		}
		for k, raw := range m {
			all[k] = raw
		}
	}
	return tmpl.Render(all, Options{Clock: clock})
}

// check compares a render with what Python did: its text, or the class of its exception and the line of the template.
func check(t *testing.T, name string, r Result, err error, text *string, kind string, line int) {
	t.Helper()
	var e *Error
	if err != nil {
		var ok bool
		if e, ok = err.(*Error); !ok {
			t.Errorf("%s: %T: %v", name, err, err)
			return
		}
	}
	switch {
	case text == nil && err == nil:
		t.Errorf("%s: rendered %q, Python raises %s", name, r.Text, kind)
	case text == nil && kind == "SyntaxError" && e.Kind == KindSyntax: // Python's compiler finds it, here the parser
	case text == nil && kind != "" && e.Kind != kind:
		t.Errorf("%s: raised %v, Python raises %s", name, err, kind)
	case text == nil && line > 0 && e.Line != line:
		t.Errorf("%s: raised %v, Python names line %d", name, err, line)
	case text != nil && err != nil:
		t.Errorf("%s: %v, Python renders %q", name, err, *text)
	case text != nil && r.Text != *text:
		t.Errorf("%s:\n got %q\nwant %q", name, r.Text, *text)
	}
}

// checkSpans compares what is marked; Python also lists blocks inside blocks, and misplaces captured ones.
func checkSpans(t *testing.T, name string, r Result, want [][2]int) {
	t.Helper()
	if r.Unplaced > 0 {
		return
	}
	var outer [][2]int
	for _, s := range want {
		for len(outer) > 0 && outer[len(outer)-1][0] >= s[0] {
			outer = outer[:len(outer)-1]
		}
		outer = append(outer, s)
	}
	empty := func(s [2]int) bool { return s[0] == s[1] }
	if got, want := slices.DeleteFunc(slices.Clone(r.Generation), empty), slices.DeleteFunc(outer, empty); !slices.Equal(got, want) {
		t.Errorf("%s: spans %v, want %v", name, got, want)
	}
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		t.Skipf("%s is absent", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func TestProbesEqualPython(t *testing.T) {
	var micro struct {
		Ctx   json.RawMessage
		Cases []struct {
			Name, T, Err string
			OK           *string
		}
	}
	readJSON(t, "testdata/jinja_micro.json", &micro)
	if len(micro.Cases) != 77 {
		t.Fatalf("%d probes", len(micro.Cases))
	}
	for _, c := range micro.Cases {
		r, err := renderGolden(t, c.T, micro.Ctx)
		check(t, c.Name, r, err, c.OK, c.Err, 0)
	}
}

// shared is where the project keeps published templates, which stand under their models' licences.
const shared = "../../../shared/testdata"

type publishedTemplate struct{ Src, BOS, EOS string }

func TestPublishedTemplatesEqualPython(t *testing.T) {
	var templates map[string]publishedTemplate
	var cases [][2]json.RawMessage
	var gold map[string]struct {
		Out *string
		Err string
	}
	readJSON(t, filepath.Join(shared, "chat_templates.json"), &templates)
	readJSON(t, filepath.Join(shared, "chat_cases.json"), &cases)
	readJSON(t, filepath.Join(shared, "chat_gold.json"), &gold)
	n := 0
	for name, tmpl := range templates {
		special, err := json.Marshal(map[string]any{"bos_token": tmpl.BOS, "eos_token": tmpl.EOS, "tools": nil, "documents": nil})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			var caseName string
			if err := json.Unmarshal(c[0], &caseName); err != nil {
				t.Fatal(err)
			}
			want, ok := gold[name+"/"+caseName]
			if !ok {
				continue
			}
			n++
			r, err := renderGolden(t, tmpl.Src, special, c[1])
			check(t, name+"/"+caseName, r, err, want.Out, "", 0)
		}
	}
	if n != len(gold) || n != 195 {
		t.Errorf("%d renders of %d", n, len(gold))
	}
}

func TestFeaturesEqualPython(t *testing.T) {
	context, err := os.ReadFile("testdata/context.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []struct {
		Group, T, Err string
		OK            *string
		Line          int
		Spans         [][2]int
	}
	readJSON(t, "testdata/features.golden.json", &all)
	if len(all) < 500 {
		t.Fatalf("only %d templates", len(all))
	}
	for _, c := range all {
		r, err := renderGolden(t, c.T, context)
		check(t, c.Group+": "+c.T, r, err, c.OK, c.Err, c.Line)
		checkSpans(t, c.T, r, c.Spans)
	}
}

// conversations are renders of whole chat templates.
type conversations struct {
	Special   json.RawMessage
	Templates map[string]string
	Cases     map[string]json.RawMessage
	Renders   map[string]struct {
		OK    *string
		Err   string
		Line  int
		Spans [][2]int
	}
}

func readConversations(t testing.TB, path string) (c conversations) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(&c); err != nil {
		t.Fatal(err)
	}
	return c
}

// check compares all renders. lines is 1 to compare also the lines of exceptions, which Python counts differently where a
// literal holds a newline, and 0 not to.
func (c conversations) check(t *testing.T, lines int, special func(template string) json.RawMessage) {
	t.Helper()
	defaults := json.RawMessage(`{"tools": null, "documents": null, "add_generation_prompt": false}`)
	for key, want := range c.Renders {
		name, situation, _ := strings.Cut(key, "/")
		r, err := renderGolden(t, c.Templates[name], defaults, special(name), c.Cases[situation])
		check(t, key, r, err, want.OK, want.Err, want.Line*lines)
		checkSpans(t, key, r, want.Spans)
	}
}

func TestTRLTemplatesEqualPython(t *testing.T) {
	c := readConversations(t, "testdata/trl.golden.json.gz")
	if len(c.Renders) < 2000 {
		t.Fatalf("only %d renders", len(c.Renders))
	}
	c.check(t, 1, func(string) json.RawMessage { return c.Special })
}

func TestPublishedTemplatesEqualPythonOnMoreConversations(t *testing.T) {
	c := readConversations(t, "testdata/published.golden.json.gz")
	if len(c.Renders) < 600 {
		t.Fatalf("only %d renders", len(c.Renders))
	}
	var published map[string]publishedTemplate
	readJSON(t, filepath.Join(shared, "chat_templates.json"), &published)
	c.Templates = map[string]string{}
	for name, p := range published {
		c.Templates[name] = p.Src
	}
	c.check(t, 0, func(name string) json.RawMessage {
		data, err := json.Marshal(map[string]string{"bos_token": published[name].BOS, "eos_token": published[name].EOS})
		if err != nil {
			t.Fatal(err)
		}
		return data
	})
}
