package jinja

import (
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
)

func render(t *testing.T, source string, vars map[string]any) string {
	t.Helper()
	tmpl, err := Parse("", source)
	if err != nil {
		t.Fatal(err)
	}
	r, err := tmpl.Render(vars, Options{Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	return r.Text
}

func TestGoValuesBecomePythonValues(t *testing.T) {
	type tool struct {
		Name string         `json:"name"`
		Args map[string]int `json:"args"`
	}
	dict := &Dict{}
	if err := dict.Set("z", 1); err != nil {
		t.Fatal(err)
	}
	if err := dict.Set("a", []string{"x"}); err != nil {
		t.Fatal(err)
	}
	huge, _ := new(big.Int).SetString("123456789012345678901234567890", 10)
	for _, c := range []struct {
		v    any
		want string
	}{
		{nil, "None"},
		{true, "True"},
		{3, "3"},
		{int8(-3), "-3"},
		{uint64(1 << 63), "9223372036854775808"},
		{huge, "123456789012345678901234567890"},
		{2.5, "2.5"},
		{float32(2.5), "2.5"},
		{4.0, "4"}, // encoding/json's spelling of the number 4
		{1e300, "1e+300"},
		{json.Number("4.0"), "4.0"},
		{json.Number("4"), "4"},
		{"it's", "it's"},
		{[]any{"a", 1, nil}, "['a', 1, None]"},
		{[]string{"a"}, "['a']"},
		{[]int{1}, "[1]"},
		{map[string]any{"b": 1, "a": 2}, "{'a': 2, 'b': 1}"},
		{[]map[string]any{{"b": 1}}, "[{'b': 1}]"},
		{map[string]any{"function": map[string]any{"parameters": 1, "description": 2, "name": 3}, "type": 4, "id": 5}, "{'id': 5, 'type': 4, 'function': {'name': 3, 'description': 2, 'parameters': 1}}"},
		{map[string]string{"k": "v"}, "{'k': 'v'}"},
		{dict, "{'z': 1, 'a': ['x']}"},
		{json.RawMessage(`{"z": 1.0, "a": [1, 1e2, null, "\ud83d\ude00"], "z": 2}`), "{'z': 2, 'a': [1, 100.0, None, '😀']}"},
		{json.RawMessage(`1e999`), "inf"},
		{tool{"f", map[string]int{"y": 1, "x": 2}}, "{'name': 'f', 'args': {'x': 2, 'y': 1}}"},
		{&tool{Name: "f"}, "{'name': 'f', 'args': None}"},
	} {
		if got := render(t, "{{ v }}", map[string]any{"v": c.v}); got != c.want {
			t.Errorf("%#v prints %q, want %q", c.v, got, c.want)
		}
	}
}

func TestUnusableGoValuesAreNamed(t *testing.T) {
	cycle := map[string]any{}
	cycle["again"] = cycle
	for _, c := range []struct {
		v    any
		want string
	}{
		{map[string]any{"a": []any{1, "\xff"}}, "a: [1]: the text is not valid UTF-8"},
		{map[string]any{"\xff": 1}, "is not valid UTF-8"},
		{[]any{make(chan int)}, "[0]: json: unsupported type: chan int"},
		{cycle, "nested deeper than 1000"},
		{json.RawMessage(`{"a": `), "unexpected EOF"},
		{json.RawMessage(`{} {}`), "more after the value"},
		{json.RawMessage(strings.Repeat("[", 2000) + strings.Repeat("]", 2000)), "nested deeper than 1000"},
		{json.RawMessage("1" + strings.Repeat("0", 5000)), "want at most 4300"},
		{json.Number("x"), `"x" is not a number`},
		{json.Number("1.x"), `"1.x"`},
	} {
		_, err := FromGo(c.v)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60v: %v, want %q", c.v, err, c.want)
		}
	}
	tmpl, err := Parse("", "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tmpl.Render(map[string]any{"tools": make(chan int)}, Options{}); err == nil || !strings.Contains(err.Error(), "tools") {
		t.Errorf("the error does not name the variable: %v", err)
	}
}

func TestDictKeepsOrderAndFindsKeys(t *testing.T) {
	d := &Dict{}
	for i := range 100 {
		if err := d.Set(fmt.Sprint("k", (i*37)%100), i); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Set("k0", "again"); err != nil {
		t.Fatal(err)
	}
	if d.Len() != 100 || len(d.Keys()) != 100 || d.Keys()[1] != "k37" {
		t.Errorf("%d keys: %v", d.Len(), d.Keys())
	}
	if v, ok := d.Get("k0"); !ok || v != "again" {
		t.Errorf("k0 is %v", v)
	}
	if v, ok := d.Get("k74"); !ok || v != int64(2) {
		t.Errorf("k74 is %v", v)
	}
	if _, ok := d.Get("absent"); ok {
		t.Error("found an absent key")
	}
	clone := d.Clone()
	if err := clone.Set("new", []any{1, "x"}); err != nil || clone.Len() != 101 || d.Len() != 100 {
		t.Errorf("clone: %d keys, original %d, %v", clone.Len(), d.Len(), err)
	}
	v, _ := clone.Get("new")
	if e, ok := Elements(v); !ok || len(e) != 2 || e[0] != int64(1) {
		t.Errorf("elements %v", e)
	}
	if _, ok := Elements("x"); ok {
		t.Error("a text has elements")
	}
	if err := d.Set("f", func() {}); err == nil || !strings.Contains(err.Error(), "f: ") {
		t.Errorf("a function was stored: %v", err)
	}
	got := render(t, "{{ {(1, 'a'): 1, (1.0, 'a'): 2, (true, ('a',)): 3} }}{{ d.k74 }}{{ 'k3' in d }}", map[string]any{"d": d})
	if want := "{(1, 'a'): 2, (True, ('a',)): 3}2True"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestTemplatesServeManyGoroutines(t *testing.T) {
	c := readConversations(t, "testdata/trl.golden.json.gz")
	tmpl, err := Parse("qwen3", c.Templates["qwen3"])
	if err != nil {
		t.Fatal(err)
	}
	var vars map[string]any
	if err := json.Unmarshal(c.Cases["tool loop"], &vars); err != nil {
		t.Fatal(err)
	}
	for k, v := range vars {
		if vars[k], err = FromGo(v); err != nil {
			t.Fatal(err)
		}
	}
	want, err := tmpl.Render(vars, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if r, err := tmpl.Render(vars, Options{}); err != nil || r.Text != want.Text {
					t.Errorf("%v: %q", err, r.Text)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestErrorsSayWhereAndWhat(t *testing.T) {
	for _, c := range []struct{ source, want string }{
		{"a\n{{ raise_exception('roles must alternate') }}", "T: line 2: TemplateError: roles must alternate"},
		{"a\n{% for x in [1] %}\n{{ x.y.z }}\n{% endfor %}", "T: line 3: UndefinedError: 'int object' has no attribute 'y'"},
		{"{{ 'a' + 1 }}", `T: line 1: TypeError: can only concatenate str (not "int") to str`},
		{"{{ nope.a }}", "T: line 1: UndefinedError: 'nope' is undefined"},
		{"{{ [1][2].a }}", "T: line 1: UndefinedError: list object has no element 2"},
		{"{% if x %}\n\n{% for y in z %}", "T: line 3: TemplateSyntaxError: Unexpected end of template. Jinja was looking for the following tags: 'endfor' or 'else'. The innermost block that needs to be closed is 'for'."},
		{"\n{% nope %}", "T: line 2: TemplateSyntaxError: Encountered unknown tag 'nope'."},
		{"{{ 'a' | nope }}", "T: line 1: TemplateAssertionError: No filter named 'nope'."},
		{"{% include 'x' %}", "T: line 1: UnsupportedError: the tag {% include %} is not supported: a chat template stands alone; write its content out"},
		{"{% import 'x' as y %}", "the tag {% import %} is not supported"},
		{"{% from 'x' import y %}", "the tag {% from %} is not supported"},
		{"{% extends 'x' %}", "the tag {% extends %} is not supported"},
		{"{% block x %}{% endblock %}", "the tag {% block %} is not supported"},
		{"{% autoescape true %}{% endautoescape %}", "the tag {% autoescape %} is not supported"},
		{"{{ [1]|random }}", "the filter random is not supported"},
		{"{{ lipsum() }}", "the function lipsum is not supported"},
		{"{{ 'a'.encode() }}", "the method str.encode is not supported"},
		{"{{ '\\N{BULLET}' }}", "named characters"},
		{"{{ '\\ud800' }}", "the escape of 0xd800 is not a character"},
		{"{{ [].append(1) }}", "T: line 1: SecurityError: access to attribute 'append' of 'list' object is unsafe."},
		{"{{ ''.__class__.x }}", "T: line 1: SecurityError: access to attribute '__class__' of 'str' object is unsafe."},
		{"\xff", "T: line 0: "},
	} {
		tmpl, err := Parse("T", c.source)
		if err == nil {
			_, err = tmpl.Render(nil, Options{})
		}
		want := strings.Replace(c.want, "line 0: ", "", 1)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", c.source, err, want)
		}
	}
}

func TestCapturedGenerationsHaveNoPlace(t *testing.T) {
	tmpl, err := Parse("", "{% macro m() %}a{% generation %}b{% endgeneration %}{% endmacro %}x{{ m()|upper }}{% generation %}c{% endgeneration %}")
	if err != nil {
		t.Fatal(err)
	}
	r, err := tmpl.Render(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Text != "xABc" || r.Unplaced != 1 || len(r.Generation) != 1 || r.Generation[0] != [2]int{3, 4} || !tmpl.HasGenerations() {
		t.Errorf("%+v", r)
	}
}
