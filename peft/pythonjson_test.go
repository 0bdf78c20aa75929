package peft

import (
	"bufio"
	"encoding/json/v2"
	"os"
	"strconv"
	"testing"
)

func eachLine(t *testing.T, name string, check func(line string)) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := 0
	for s := bufio.NewScanner(f); s.Scan(); lines++ {
		check(s.Text())
	}
	if lines == 0 {
		t.Fatalf("%s is empty", name)
	}
}

func TestFloatsAreWrittenAsPythonWritesThem(t *testing.T) {
	eachLine(t, "testdata/numbers.txt", func(line string) {
		x, err := strconv.ParseFloat(line, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(appendPythonJSON(nil, x, compact)); got != line {
			t.Errorf("%s, Python writes %s", got, line)
		}
	})
}

func TestStringsAreWrittenAsPythonWritesThem(t *testing.T) {
	eachLine(t, "testdata/strings.txt", func(line string) {
		var s string
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatal(err)
		}
		if got := string(appendPythonJSON(nil, s, compact)); got != line {
			t.Errorf("%s, Python writes %s", got, line)
		}
	})
}

func TestIndentedJSONIsPythons(t *testing.T) {
	got := string(appendPythonJSON(nil, object{{"a", []string{}}, {"b", object{}}, {"c", []int{1, 2}}, {"d", object{{"x", nil}, {"y", true}}}}, indented))
	const want = "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1,\n    2\n  ],\n  \"d\": {\n    \"x\": null,\n    \"y\": true\n  }\n}"
	if got != want {
		t.Errorf("%s", got)
	}
}
