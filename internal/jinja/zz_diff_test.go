package jinja

import (
	"encoding/json"
	"os"
	"testing"
)

func TestZZDiff(t *testing.T) {
	p := os.Getenv("JDIFF")
	if p == "" {
		t.Skip()
	}
	var f struct {
		Ctx   json.RawMessage
		Cases []struct {
			T, Err string
			OK     *string
			Spans  [][2]int
		}
	}
	readJSON(t, p, &f)
	for _, c := range f.Cases {
		r, err := renderGolden(t, c.T, f.Ctx)
		if c.OK == nil {
			c.Err = ""
		}
		if e, ok := err.(*Error); ok && (e.Kind == KindLimit || e.Kind == KindUnsupported) {
			continue
		}
		check(t, c.T, r, err, c.OK, c.Err)
		if err == nil {
			checkSpans(t, c.T, r, c.Spans)
		}
	}
}
