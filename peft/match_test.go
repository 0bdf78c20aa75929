package peft

import (
	"encoding/json/v2"
	"slices"
	"strings"
	"testing"
)

// TestMatchingRulesEqualPEFT holds every rule, and Python's regular expressions, against check_target_module_exists: its own
// 46 test cases first. Two of these were different before PEFT 0.21: "bar.1.baz" with layers_pattern "bar", and
// "blocks.1.weight" with "blocks" now match, though nothing precedes the list of layers.
func TestMatchingRulesEqualPEFT(t *testing.T) {
	verdicts := map[string][]verdict{"targeted": {targeted}, "excluded": {excluded}, "": {unmatched, otherLayers}}
	f := readMatching(t)
	if len(f.Rules) < 150 {
		t.Fatalf("%d rules", len(f.Rules))
	}
	for i, r := range f.Rules {
		text := compactJSON(t, map[string]any{"target_modules": r.TargetModules, "layers_to_transform": r.LayersToTransform,
			"layers_pattern": r.LayersPattern, "exclude_modules": r.ExcludeModules, "modules_to_save": r.ModulesToSave})
		var c LoraConfig
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			t.Fatal(err)
		}
		// PEFT's function also takes what its config refuses: layers with a string, and the empty expression.
		if r.TargetModules == "" {
			if _, err := c.targeting().matcher(); err == nil || !strings.Contains(err.Error(), "empty expression") {
				t.Errorf("case %d: error %v", i+1, err)
			}
			continue
		}
		m, err := c.targeting().matcher()
		if err != nil {
			t.Errorf("case %d: %s: %v", i+1, text, err)
			continue
		}
		got, err := m.match(r.Key)
		if err != nil {
			t.Errorf("case %d: %s: %v", i+1, text, err)
		}
		if !slices.Contains(verdicts[r.Result], got) {
			t.Errorf("case %d: %q with %s: verdict %d, PEFT says %q", i+1, r.Key, text, got, r.Result)
		}
	}
}

func TestPatternKeysEqualPEFT(t *testing.T) {
	for _, c := range readMatching(t).PatternKeys {
		var p Ranks
		for i, key := range c.Keys {
			p = append(p, PatternEntry[int]{Key: key, Value: i + 1})
		}
		compiled, err := p.compile("rank_pattern")
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range c.Results {
			if got, err := compiled.at(path); err != nil || got != want {
				t.Errorf("keys %q on %q: entry %d, %v; PEFT takes %d", c.Keys, path, got, err, want)
			}
		}
	}
}

func TestMinimalSuffixesEqualPEFT(t *testing.T) {
	for _, c := range readMatching(t).MinimalSets {
		if got := sortedSet(minimalSuffixes(c.Targets, c.Others)); !slices.Equal(got, c.Result) {
			t.Errorf("targets %q, others %q: %q, PEFT finds %q", c.Targets, c.Others, got, c.Result)
		}
	}
}

func TestMatchingFindsTheLayerNotTheExpert(t *testing.T) {
	var modules []Module
	var want []string
	for _, layer := range []string{"0", "1", "2", "3"} {
		for _, name := range []string{"self_attn.q_proj", "mlp.experts.0.up_proj", "mlp.experts.1.up_proj"} {
			modules = append(modules, Module{Path: "model.layers." + layer + "." + name, In: 4, Out: 4})
			if layer == "1" {
				want = append(want, "model.layers.1."+name)
			}
		}
	}
	for _, pattern := range [][]string{nil, {"layers"}, {"h", "layers"}} {
		r, err := ResolveTargets(LoraConfig{TargetModules: Modules("q_proj", "up_proj"), LayersToTransform: []int{1}, LayersPattern: pattern}, "llama", modules)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, target := range r.Targets {
			got = append(got, target.Path)
		}
		if !slices.Equal(got, want) {
			t.Errorf("layers_pattern %q: %q", pattern, got)
		}
	}
}

func TestExpressionsThatPythonRefusesAreErrors(t *testing.T) {
	for expression, want := range map[string]string{
		`a(b`:             "not a regular expression",
		`[a`:              "unterminated character set",
		`a\`:              `lone \`,
		`\Qa\E`:           `bad escape \Q`,
		`\z`:              `bad escape \z`,
		`(?<n>a)`:         "unknown extension",
		`(?P>a)`:          "unknown extension",
		`(?P=1 )`:         "bad group reference",
		`(?P<x>a)(b)\1.*`: "cannot be mixed",
		`a**`:             "not a regular expression",
	} {
		for field, c := range map[string]LoraConfig{
			"target_modules":  {TargetModules: Regexp(expression)},
			"exclude_modules": {ExcludeModules: Regexp(expression)},
			"rank_pattern":    {RankPattern: Ranks{{Key: expression, Value: 1}}},
			"layers_pattern":  {LayersToTransform: []int{0}, LayersPattern: []string{expression}},
		} {
			if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), field) {
				t.Errorf("%s %q: error %v, want %s … %s", field, expression, err, field, want)
			}
		}
	}
}

func TestExplodingExpressionIsAnErrorNotAHang(t *testing.T) {
	if testing.Short() {
		t.Skip("takes two seconds")
	}
	modules := []Module{{Path: "model.layers.0.self_attn.q_proj" + strings.Repeat("a", 40), In: 2, Out: 2}}
	_, err := ResolveTargets(LoraConfig{TargetModules: Regexp(`(?=m).*?(a+)+$!`)}, "llama", modules)
	if err == nil || !strings.Contains(err.Error(), "backtracks") {
		t.Errorf("error %v", err)
	}
}

func FuzzExpressionsNeverPanic(f *testing.F) {
	for _, s := range []string{`.*\.(q|v)_proj`, `(?!a)[]^-]{,3}\1`, `(?P<n>a)(?P=n)`, `(?(1)a|b)`, `[[:alpha:]]`, `(?x)a # b`, `\u0071{2,1}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		re, err := compilePython(s, fullMatch)
		if err != nil {
			return
		}
		if re.back != nil {
			re.back.MatchTimeout = 20 * 1e6 // nanoseconds
		}
		if _, _, err := re.match("model.layers.12.self_attn.q_proj"); err != nil && !strings.Contains(err.Error(), "backtracks") {
			t.Fatal(err)
		}
	})
}
