package jinja

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// slowdown is how much longer the time limit of the test is than what it is about: machines are shared and slow.
const slowdown = 4

// Templates that would take for ever, or all memory, or all of the stack.
func TestHostileTemplatesEndInErrors(t *testing.T) {
	twice := func(start, step string) string {
		return "{% set ns = namespace(v=" + start + ") %}{% for i in range(90) %}{% set ns.v = " + step + " %}{% endfor %}"
	}
	nested := "{% set ns = namespace(v=[]) %}{% for i in range(99999) %}{% set ns.v = [ns.v] %}{% endfor %}"
	var slowest time.Duration
	var which string
	for name, source := range map[string]string{
		"loops":                "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
		"output":               "{% for a in range(100000) %}{% for b in range(100000) %}" + strings.Repeat("x", 1000) + "{% endfor %}{% endfor %}",
		"long strings":         twice("'ab'", "ns.v ~ ns.v"),
		"added strings":        twice("'ab'", "ns.v + ns.v"),
		"long lists":           twice("[1]", "ns.v + ns.v"),
		"long tuples":          twice("(1,)", "ns.v * 2"),
		"repeated strings":     "{{ 'a' * 10 ** 12 }}",
		"repeated by much":     "{{ 'a' * 10 ** 30 }}",
		"repeated lists":       "{{ ([1] * 10 ** 9)|length }}",
		"shared lists printed": twice("[1]", "[ns.v, ns.v]") + "{{ ns.v }}",
		"shared dicts in JSON": twice("{}", "{'a': ns.v, 'b': ns.v}") + "{{ ns.v|tojson }}",
		"shared lists equal":   twice("[1]", "[ns.v, ns.v]") + "{% set a = ns.v %}" + twice("[1]", "[ns.v, ns.v]") + "{{ a == ns.v }}",
		"shared tuples as key": twice("(1,)", "(ns.v, ns.v)") + "{{ {ns.v: 1} }}",
		"nested lists printed": nested + "{{ ns.v }}",
		"nested lists in JSON": nested + "{{ ns.v|tojson }}",
		"nested lists equal":   nested + "{% set a = ns.v %}" + nested + "{{ a == ns.v }}",
		"nested lists ordered": nested + "{% set a = ns.v %}" + nested + "{{ a < [ns.v] }}",
		"nested tuples as key": strings.ReplaceAll(nested, "[ns.v]", "(ns.v,)") + "{{ {ns.v: 1} }}",
		"cyclic namespace":     "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns }}",
		"chained generators":   "{% set ns = namespace(v=[1]) %}{% for i in range(99999) %}{% set ns.v = ns.v|map('string') %}{% endfor %}{{ ns.v|list }}",
		"loop over itself":     "{% set ns = namespace(v=range(99999)) %}{% for i in ns.v %}{% for k in ns.v %}{% set ns.i = i * k %}{% endfor %}{% endfor %}",
		"growing output":       "{% set ns = namespace(v='x') %}{% for i in range(99999) %}{% set ns.v = ns.v ~ ns.v[:1000] %}{{ ns.v }}{% endfor %}",
		"not UTF-8":            "{{ 'a\xff' }}",
		"macro recursion":      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
		"mutual recursion":     "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{% call c() %}{% endcall %}{% endmacro %}{% macro c() %}{{ caller() }}{{ a() }}{% endmacro %}{{ a() }}",
		"loop recursion":       "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
		"powers":               "{{ 9 ** (9 ** 9) }}",
		"products":             twice("10", "ns.v * ns.v"),
		"shifted powers":       "{{ (2 ** 60000) * (2 ** 60000) }}",
		"digits":               "{{ 2 ** 60000 }}",
		"width":                "{{ '%999999999999d' % 1 }}",
		"star width":           "{{ '%*d' % (10 ** 12, 1) }}",
		"precision":            "{{ '%.999999999999f' % 1.5 }}",
		"many widths":          "{{ ('{:1000000}' * 1000).format(*range(1000)) }}",
		"center":               "{{ 'a'.center(10 ** 12) }}",
		"zfill":                "{{ 'a'.zfill(10 ** 12) }}",
		"expandtabs":           "{{ ('\t' * 1000000).expandtabs(1000000) }}",
		"replace":              "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
		"replace nothing":      "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
		"join":                 "{{ ('b' * 1000000).join('a' * 1000000) }}",
		"joined list":          "{{ range(100000)|join('b' * 1000000) }}",
		"indent":               "{{ ('\n' * 1000000)|indent(1000000) }}",
		"indent JSON":          "{{ [[]]|tojson(indent=10 ** 12) }}",
		"JSON separators":      "{{ range(10000)|list|tojson(separators=('a' * 1000000, 'b')) }}",
		"batch":                "{{ [1]|batch(10 ** 12, 0)|list }}",
		"slice":                "{{ [1]|slice(10 ** 12)|list }}",
		"range":                "{{ range(10 ** 12) }}",
		"huge range":           "{{ range(-(2 ** 63), 2 ** 63 - 1) }}",
		"round":                "{{ 5|round(10 ** 9, 'ceil') }}",
		"arguments":            "{{ 'a'.format(*('a' * 50000000)) }}",
		"strftime":             "{{ strftime_now('%c' * 30000000) }}",
		"deep parentheses":     "{{ " + strings.Repeat("(", 100000) + "1" + strings.Repeat(")", 100000) + " }}",
		"deep lists":           "{{ " + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + " }}",
		"deep subscripts":      "{{ a" + strings.Repeat("[a", 100000) + strings.Repeat("]", 100000) + " }}",
		"deep calls":           "{{ a" + strings.Repeat("(a", 100000) + strings.Repeat(")", 100000) + " }}",
		"many signs":           "{{ " + strings.Repeat("-", 100000) + "1 }}",
		"many nots":            "{{ " + strings.Repeat("not ", 100000) + "1 }}",
		"many sums":            "{{ 1" + strings.Repeat("+1", 100000) + " }}",
		"many attributes":      "{{ a" + strings.Repeat(".a", 100000) + " }}",
		"many filters":         "{{ a" + strings.Repeat("|string", 100000) + " }}",
		"many tests":           "{{ a is" + strings.Repeat(" not", 100000) + " }}",
		"many conditions":      "{{ 1" + strings.Repeat(" if 1 else 1", 100000) + " }}",
		"many short ifs":       "{{ 1" + strings.Repeat(" if 1", 100000) + " }}",
		"many ors":             "{{ 1" + strings.Repeat(" or 1 and 1", 100000) + " }}",
		"deep blocks":          strings.Repeat("{% if 1 %}", 100000) + strings.Repeat("{% endif %}", 100000),
		"deep targets":         "{% set " + strings.Repeat("(", 100000) + "a" + strings.Repeat(",)", 100000) + " = 1 %}",
	} {
		start := time.Now()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var r Result
		tmpl, err := Parse("", source)
		if err == nil {
			r, err = tmpl.Render(nil, Options{})
		}
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: rendered %d bytes", name, len(r.Text))
		} else if e, ok := err.(*Error); !ok || e.Kind == KindInternal {
			t.Errorf("%s: %v", name, err)
		}
		d := time.Since(start)
		if d > 2*slowdown*time.Second {
			t.Errorf("%s: took %v", name, d)
		}
		if d > slowest {
			slowest, which = d, name
		}
		if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 2000 {
			t.Errorf("%s: allocated %d MiB", name, n)
		}
	}
	t.Logf("the slowest is %s: %v", which, slowest)
}

func TestOptionsBoundARender(t *testing.T) {
	tmpl, err := Parse("bounded", "{% for i in range(100) %}\n{{ 'ab' * 10 }}{% endfor %}")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{}, ""},
		{Options{MaxSteps: 10_000, MaxOutput: 2000}, ""},
		{Options{MaxSteps: 50}, "bounded: line 2: LimitError: the template takes too many steps (Options.MaxSteps)"},
		{Options{MaxOutput: 1999}, "bounded: line 2: LimitError: a text of 2000 bytes; want at most 1999 (Options.MaxOutput)"},
	} {
		r, err := tmpl.Render(nil, c.o)
		switch {
		case c.want == "" && (err != nil || len(r.Text) != 2000):
			t.Errorf("%+v: %d bytes, %v", c.o, len(r.Text), err)
		case c.want != "" && (err == nil || err.Error() != c.want || r.Text != ""):
			t.Errorf("%+v: %v, want %s", c.o, err, c.want)
		}
	}
}

func TestVariablesThatAreNotUTF8AreErrors(t *testing.T) {
	tmpl, err := Parse("t", "{{ messages[0].content }}")
	if err != nil {
		t.Fatal(err)
	}
	for _, vars := range []map[string]any{
		{"messages": []any{map[string]any{"content": "a\xff"}}},
		{"messages": []any{map[string]any{"content": "ok", "\xc3": 1}}},
	} {
		if r, err := tmpl.Render(vars, Options{}); err == nil {
			t.Errorf("rendered %q", r.Text)
		} else if !strings.Contains(err.Error(), "messages") || !strings.Contains(err.Error(), "UTF-8") {
			t.Errorf("%v", err)
		}
	}
}
