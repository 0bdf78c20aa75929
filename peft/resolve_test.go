package peft

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestTargetsEqualPEFT compares targets, ranks, scaling, saved target_modules, warnings and errors with get_peft_model on
// Llama, GPT-2, T5 and GPT-NeoX.
func TestTargetsEqualPEFT(t *testing.T) {
	for _, model := range readMatching(t).Models {
		var modules []Module
		for _, m := range model.Modules {
			modules = append(modules, Module(m))
		}
		for _, c := range model.Cases {
			r, err := ResolveTargets(c.Config, model.ModelType, modules)
			name := fmt.Sprintf("%s %v exclude %v", model.ModelType, c.Config.TargetModules, c.Config.ExcludeModules)
			if c.Error != "" {
				checkRefusal(t, name, c.Error, err)
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			checkResolution(t, name, c, r)
		}
	}
}

func checkResolution(t *testing.T, name string, c modelCase, r Resolution) {
	t.Helper()
	if len(r.Targets) != len(c.Targets) {
		t.Errorf("%s: %d targets, PEFT has %d", name, len(r.Targets), len(c.Targets))
	}
	for _, got := range r.Targets {
		want, ok := c.Targets[got.Path]
		if !ok {
			t.Errorf("%s: %q is not targeted by PEFT", name, got.Path)
			continue
		}
		if got.R != want.R || got.Alpha != want.Alpha || got.Scaling != want.Scaling {
			t.Errorf("%s: %q has r %d, alpha %v, scaling %v; PEFT's are %d, %v, %v", name, got.Path, got.R, got.Alpha, got.Scaling, want.R, want.Alpha, want.Scaling)
		}
		if want.AShape[0] != got.R || want.AShape[1] != got.In || want.BShape[0] != got.Out || want.BShape[1] != got.R {
			t.Errorf("%s: %q has [%d, %d] and [%d, %d], PEFT's A %v and B %v", name, got.Path, got.R, got.In, got.Out, got.R, want.AShape, want.BShape)
		}
		if s, err := r.Config.Scaling(got.Path); err != nil || s != want.Scaling {
			t.Errorf("%s: Scaling(%q) = %v, %v", name, got.Path, s, err)
		}
	}
	if got, want := compactJSON(t, r.Config.TargetModules.json()), compactJSON(t, c.TargetModules); got != want {
		t.Errorf("%s: saved target_modules %s, PEFT saves %s", name, got, want)
	}
	for _, field := range []string{"exclude_modules", "rank_pattern", "alpha_pattern"} {
		if got, want := strings.Contains(strings.Join(r.Warnings, "\n"), field), strings.Contains(strings.Join(c.Warnings, "\n"), field); got != want {
			t.Errorf("%s: warning about %s: %v, PEFT's: %v", name, field, got, want)
		}
	}
}

// checkRefusal: PEFT's two texts for layers are one of their own here, and so are targets that are not linear.
func checkRefusal(t *testing.T, name, peft string, err error) {
	t.Helper()
	var none *NoMatchingError
	if !strings.HasPrefix(peft, "NoMatching") {
		if err == nil || errors.As(err, &none) || !strings.Contains(err.Error(), "only linear modules") {
			t.Errorf("%s: error %v, PEFT: %s", name, err, peft)
		}
		return
	}
	if !errors.As(err, &none) {
		t.Errorf("%s: error %v, PEFT: %s", name, err, peft)
		return
	}
	texts := map[NoMatch]string{
		NotFound: "not found in the base model", NoLayer: "not found in the base model", AllExcluded: "All modules were excluded",
		NoneRemaining: "No modules were targeted for adaptation", NoTargets: "No `target_modules` passed",
	}
	if !strings.Contains(peft, texts[none.Reason]) {
		t.Errorf("%s: reason %q, PEFT: %s", name, none.Reason, peft)
	}
	if !strings.Contains(err.Error(), "the model has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head") {
		t.Errorf("%s: the error does not say what the model has: %v", name, err)
	}
}

func twoLayers() (modules []Module) {
	for _, path := range []string{"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"} {
		modules = append(modules, Module{Path: path, In: 6, Out: 5})
	}
	return append(modules, Module{Path: "lm_head", In: 6, Out: 9, IsHead: true})
}

func TestErrorsSayWhyNothingIsTargeted(t *testing.T) {
	for _, c := range []struct {
		cfg  LoraConfig
		want string
	}{
		{LoraConfig{TargetModules: Modules("qproj", "c_attn")}, `Target modules ["c_attn", "qproj"] not found in the base model; the model has q_proj, up_proj, lm_head`},
		{LoraConfig{TargetModules: Regexp(`.*\.c_attn`)}, `Target modules ".*\\.c_attn" not found in the base model; the model has q_proj, up_proj, lm_head`},
		{LoraConfig{TargetModules: Modules("all-linear")}, `peft.AllLinear`},
		{LoraConfig{TargetModules: Modules()}, `target_modules is an empty list`},
		{LoraConfig{TargetModules: Modules("q_proj"), LayersToTransform: []int{2, 3}}, `Target modules ["q_proj"] not found in the layers of layers_to_transform [2 3], though the names match 2 modules elsewhere`},
		{LoraConfig{TargetModules: Modules("q_proj"), LayersToTransform: []int{0}, LayersPattern: []string{"h"}}, `with layers_pattern ["h"]`},
		{LoraConfig{TargetModules: AllLinear, ExcludeModules: Regexp(".*")}, `All modules were excluded: check target_modules`},
		{LoraConfig{TargetModules: Modules("q_proj"), ExcludeModules: Modules("self_attn.q_proj")}, `is excluded by exclude_modules ["self_attn.q_proj"]`},
	} {
		_, err := ResolveTargets(c.cfg, "llama", twoLayers())
		var none *NoMatchingError
		if !errors.As(err, &none) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v, want %s", c.cfg.TargetModules, err, c.want)
		}
	}
}

func TestResolvingRefusesWhatPEFTRefuses(t *testing.T) {
	for want, c := range map[string]LoraConfig{
		`no default for model_type "retnet"`:                    {},
		`layers_to_transform [0] cannot be used`:                {TargetModules: AllLinear, LayersToTransform: []int{0}},
		`layers_pattern ["layers"] cannot be used`:              {TargetModules: Regexp("a"), LayersPattern: []string{"layers"}},
		`layers_pattern ["layers"] needs layers_to_transform`:   {TargetModules: Modules("a"), LayersPattern: []string{"layers"}},
		`r -1: the rank must be positive`:                       {TargetModules: AllLinear, R: -1},
		`target_modules ["", "q_proj"]: it holds an empty name`: {TargetModules: Modules("q_proj", "")},
		`rank_pattern has the key "q_proj" twice`:               {TargetModules: AllLinear, RankPattern: Ranks{{"q_proj", 1}, {"q_proj", 2}}},
		`exclude_modules "(": not a regular expression`:         {TargetModules: AllLinear, ExcludeModules: Regexp("(")},
		`layers_pattern ["layers", ""] holds an empty name`:     {TargetModules: Modules("a"), LayersToTransform: []int{0}, LayersPattern: []string{"layers", ""}},
	} {
		if _, err := ResolveTargets(c, "retnet", twoLayers()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

func TestWarningsNameWhatHasNoEffect(t *testing.T) {
	r, err := ResolveTargets(LoraConfig{
		TargetModules: Modules("q_proj", "c_attn"), ExcludeModules: Modules("k_proj"), LayersToTransform: []int{1, 7},
		RankPattern: Ranks{{Key: "q_proj", Value: 3}, {Key: "up_proj", Value: 4}}, AlphaPattern: Alphas{{Key: "up_proj", Value: 4}},
	}, "", twoLayers())
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(r.Warnings, "\n")
	for _, want := range []string{`exclude_modules ["k_proj"] excluded no module`, `target_modules ["c_attn"] match no module`,
		`layers_to_transform [7] have no module`, `rank_pattern keys ["up_proj"] match no`, `alpha_pattern keys ["up_proj"] match no`} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning %s in\n%s", want, all)
		}
	}
	if len(r.Warnings) != 5 {
		t.Errorf("%d warnings:\n%s", len(r.Warnings), all)
	}
}

func TestDefaultTargetsEqualPEFTs(t *testing.T) {
	defaults := readMatching(t).Defaults
	if len(defaults) < 35 {
		t.Fatalf("%d model types", len(defaults))
	}
	for _, d := range defaults {
		got := defaultTargets(d.ModelType)
		if got == nil || compactJSON(t, got.json()) != compactJSON(t, d.TargetModules) {
			t.Errorf("%s: %v, PEFT has %v", d.ModelType, got, d.TargetModules)
		}
	}
}

func TestLongListsOfModuleNamesAreCut(t *testing.T) {
	var modules []Module
	for i := range 33 {
		modules = append(modules, Module{Path: fmt.Sprintf("name%d", i), In: 1, Out: 1})
	}
	_, err := ResolveTargets(LoraConfig{TargetModules: Modules("x")}, "", modules)
	if err == nil || !strings.HasSuffix(err.Error(), "name28, name29 and 3 others") {
		t.Errorf("error %v", err)
	}
	if _, err = ResolveTargets(LoraConfig{TargetModules: Modules("x")}, "", nil); err == nil || !strings.HasSuffix(err.Error(), "no linear modules") {
		t.Errorf("error %v", err)
	}
}
