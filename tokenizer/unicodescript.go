package tokenizer

import (
	"sort"
	"strings"
	"unicode/utf8"
)

// scriptRun says that characters lo to hi are of a script.
type scriptRun struct {
	lo, hi rune
	script int16
}

// parseScripts reads scripts as unicodescripts.go writes them.
func parseScripts(s string) []scriptRun {
	fields := strings.Fields(s)
	runs := make([]scriptRun, 0, len(fields)/3)
	at := uint32(0)
	for i := 0; i+2 < len(fields); i += 3 {
		lo := at + base36(fields[i])
		at = lo + base36(fields[i+1])
		runs = append(runs, scriptRun{rune(lo), rune(at), int16(base36(fields[i+2]))})
	}
	return runs
}

const anyScript = -1 // goes with every script: blanks, and what had no script in the reference's Unicode

func scriptOf(r rune) int16 {
	i := sort.Search(len(scriptRuns), func(i int) bool { return scriptRuns[i].hi >= r })
	if i < len(scriptRuns) && scriptRuns[i].lo <= r {
		return scriptRuns[i].script
	}
	return anyScript
}

// splitScripts is the UnicodeScripts pre-tokenizer: it cuts where the script changes. As in the reference, what comes before
// the first character with a script is lost.
func splitScripts(_ *encoder, p piece, emit func(piece)) {
	lo, last := -1, int16(anyScript)
	for i, r := range p.text {
		script := scriptOf(r)
		if script == anyScript {
			continue
		}
		if last != script {
			if lo >= 0 {
				emit(p.slice(lo, i))
			}
			lo = i
		}
		last = script
	}
	if lo >= 0 {
		emit(p.slice(lo, len(p.text)))
	}
}

// loadFixedLength cuts into pieces of as many characters.
func loadFixedLength(n node) (preTokenizer, error) {
	c := struct {
		Length int `json:"length"`
	}{5}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	if c.Length < 1 {
		return nil, n.errorf("length: want 1 or more, got %d", c.Length)
	}
	return func(_ *encoder, p piece, emit func(piece)) {
		lo, count := 0, 0
		for i, r := range p.text {
			if count++; count == c.Length {
				hi := i + utf8.RuneLen(r)
				emit(p.slice(lo, hi))
				lo, count = hi, 0
			}
		}
		if lo < len(p.text) {
			emit(p.slice(lo, len(p.text)))
		}
	}, nil
}
