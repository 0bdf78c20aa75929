package layerwise

import (
	"math"
	"testing"
)

func TestBudgetsBeyondAnInt64AreNoLimit(t *testing.T) {
	for text, want := range map[string]int64{
		"":                    Auto,
		" Auto":               Auto,
		"0":                   0,
		"2e9":                 2e9,
		"12GiB":               12 << 30,
		"0.5 KB":              500,
		"9223372036854774784": math.MaxInt64 - 1023, // the largest float below 2⁶³
		"9223372036854775807": math.MaxInt64,
		"9223372036854775808": math.MaxInt64,
		"1e30":                math.MaxInt64,
		"8589934592GiB":       math.MaxInt64,
	} {
		if got, err := parseBudget(text); got != want || err != nil {
			t.Errorf("%q is %d, error %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"-1", "Inf", "1e400", "NaN", "GiB", "lots"} {
		if got, err := parseBudget(text); err == nil {
			t.Errorf("%q is %d, want an error", text, got)
		}
	}
}

// What is asked of FitsWhole: a budget in bytes does not promise memory that the card, or MaxDeviceMemory, does not have.
func TestABudgetInBytesIsNoMoreThanThereIs(t *testing.T) {
	for _, c := range []struct {
		budget, free int64
		told         bool
		want         int64
	}{
		{Auto, 5, true, 5},
		{Auto, 0, false, 0},
		{3, 5, true, 3},
		{7, 5, true, 5},
		{7, 0, true, 0},
		{7, 0, false, 7},
		{math.MaxInt64, 5, true, 5},
	} {
		p := planner{budget: c.budget}
		if got := p.allowed(c.free, c.told); got != c.want {
			t.Errorf("budget %d with %d free, told %v: %d, want %d", c.budget, c.free, c.told, got, c.want)
		}
	}
}
