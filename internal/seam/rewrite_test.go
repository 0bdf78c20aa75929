package seam

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

const addBody = `    %r = "stablehlo.add"(%a0, %a1) : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
    "func.return"(%r) : (tensor<3xf32>) -> ()
`

// placeholderText is how go-xla prints a placeholder.
func placeholderText(name, body, in1, out string) string {
	return fmt.Sprintf(`  func.func @%s(%%loris_body_%s: tensor<3xf32>, %%a1: %s) -> %s {
    %%0 = "stablehlo.iota"() { iota_dimension = 0 : i64 } : () -> %s
    "stablehlo.return"(%%0) : (%s) -> ()
  }`, name, hex.EncodeToString([]byte(body)), in1, out, out, out)
}

func settingsText(p *Program) string {
	content, _ := json.Marshal(p)
	return fmt.Sprintf(`  func.func @%s%s(%%loris_body_%s: tensor<i32>) -> tensor<i32> {
    "stablehlo.return"(%%loris_body_%s) : (tensor<i32>) -> ()
  }`, programPrefix, checksum(string(content)), hex.EncodeToString(content), hex.EncodeToString(content))
}

func mainText(name string) string {
	return fmt.Sprintf(`  func.func @main(%%arg0: tensor<3xf32>, %%arg1: tensor<3xf32> { sdy.sharding = #sdy.sharding<@mesh, [{"x, (y)"}]> }, %%arg2: tensor<3xf32> {
    b = "c",
    d = 1 : i32
  }) -> tensor<3xf32> {
    %%0 = "func.call"(%%arg0, %%arg1) { callee = @%s } : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
    "stablehlo.return"(%%0) : (tensor<3xf32>) -> ()
  }`, name)
}

func module(functions ...string) string {
	return "module @loris_op_test {\n" + strings.Join(functions, "\n\n") + "\n}\n"
}

const vec3 = "tensor<3xf32>"

var addName = opName(vec3+", "+vec3, vec3, addBody)

func TestPlaceholdersGetTheirBodies(t *testing.T) {
	for _, order := range [][]string{
		{mainText(addName), placeholderText(addName, addBody, vec3, vec3)},
		{placeholderText(addName, addBody, vec3, vec3), mainText(addName)},
	} {
		got, p, err := rewrite(module(order...))
		if err != nil {
			t.Fatal(err)
		}
		want := "  func.func private @" + addName + "(%a0: tensor<3xf32>, %a1: tensor<3xf32>) -> (tensor<3xf32>) {\n" + addBody + "  }\n"
		if strings.Count(got, want) != 1 || strings.Contains(got, "iota") || !strings.Contains(got, mainText(addName)) {
			t.Errorf("got\n%s\nwant in it\n%s", got, want)
		}
		if len(p.Donate)+len(p.Options)+len(p.CopyTo) > 0 {
			t.Errorf("settings %+v out of nothing", p)
		}
	}
}

func TestProgramsWithoutPlaceholdersStayAsTheyAre(t *testing.T) {
	for _, text := range []string{module(mainText("other")), "module @x {\n}\n", ""} {
		if got, _, err := rewrite(text); got != text || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, text)
		}
	}
}

func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	good := module(mainText(addName), placeholderText(addName, addBody, vec3, vec3))
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %q", old)
		}
		return strings.ReplaceAll(good, old, new)
	}
	for want, text := range map[string]string{
		"no such placeholder":      module(mainText(addName)),
		"not what its checksum":    module(mainText(addName), placeholderText(addName, addBody+" ", vec3, vec3)),
		"(tensor<3xf32>, f32)":     module(placeholderText(addName, addBody, "f32", vec3)),
		"-> (tensor<4xf32>)":       module(placeholderText(addName, addBody, vec3, "tensor<4xf32>")),
		"go-xla prints functions":  replace("  func.func @loris", "  func.func public @loris"),
		"no such placeholder was":  replace("  func.func @loris", "\tfunc.func @loris"),
		"none that the seam made":  replace("%a1", "%b1"),
		"not of the form":          replace(") -> tensor<3xf32> {\n    %0 = \"stablehlo.iota", ") attributes {} -> tensor<3xf32> {\n    %0 = \"stablehlo.iota"),
		"closes functions":         strings.TrimSuffix(good, "\n}\n"),
		"invalid byte":             replace("loris_body_2020", "loris_body_zz20"),
		"is mentioned":             module(mainText("loris_op_0"), placeholderText(addName, addBody, vec3, vec3)),
		"loris_body_00":            module(strings.ReplaceAll(mainText("x"), "%arg0", "%loris_body_00")),
		"loris_program_7":          module(mainText("loris_program_7")),
		"settings loris_program_7": module(strings.Replace(settingsText(&Program{Donate: []int{0}}), programPrefix, programPrefix+"7", 1)),
	} {
		got, _, err := rewrite(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q; text\n%s", err, want, got)
		}
	}
}

func TestDonatedInputsAreMarked(t *testing.T) {
	got, p, err := rewrite(module(mainText("f"), settingsText(&Program{Donate: []int{2}}), settingsText(&Program{Donate: []int{0, 1, 1}})))
	if err != nil {
		t.Fatal(err)
	}
	want := `@main(%arg0: tensor<3xf32> {jax.buffer_donor = true}, %arg1: tensor<3xf32> {jax.buffer_donor = true, sdy.sharding = #sdy.sharding<@mesh, [{"x, (y)"}]> }, %arg2: tensor<3xf32> {jax.buffer_donor = true,
    b = "c",
    d = 1 : i32
  }) -> tensor<3xf32> {`
	if !strings.Contains(got, want) || strings.Contains(got, "loris_program") {
		t.Errorf("got\n%s\nwant in it\n%s", got, want)
	}
	if !slices.Equal(p.Donate, []int{2, 0, 1, 1}) {
		t.Errorf("donates %v", p.Donate)
	}
	for _, d := range []int{-1, 3} {
		if _, _, err := rewrite(module(mainText("f"), settingsText(&Program{Donate: []int{d}}))); err == nil || !strings.Contains(err.Error(), "the program has 3") {
			t.Errorf("input %d: got error %v", d, err)
		}
	}
}

func TestOnlyIdentitiesCopy(t *testing.T) {
	identity := "  func.func @main(%x: tensor<3xf32>, %y: tensor<f32>) -> (tensor<3xf32>, tensor<f32>) {\n    \"stablehlo.return\"(%x, %y) : (tensor<3xf32>, tensor<f32>) -> ()\n  }"
	to := settingsText(&Program{CopyTo: "pinned_host"})
	if _, p, err := rewrite(module(identity, to)); err != nil || p.CopyTo != "pinned_host" {
		t.Errorf("got %+v, %v", p, err)
	}
	for _, main := range []string{mainText("f"), strings.Replace(identity, "(%x, %y)", "(%y, %x)", 1), strings.Replace(identity, "(%x, %y)", "(%x)", 1)} {
		if _, _, err := rewrite(module(main, to)); err == nil || !strings.Contains(err.Error(), "must return its inputs") {
			t.Errorf("got error %v for\n%s", err, main)
		}
	}
	if _, _, err := rewrite(module(identity, to, settingsText(&Program{CopyTo: "device"}))); err == nil || !strings.Contains(err.Error(), "pinned_host") {
		t.Errorf("got error %v", err)
	}
}

func TestOptionsBecomeOverrides(t *testing.T) {
	p := &Program{}
	for _, q := range []Program{{Options: map[string]string{"xla_b": "true", "xla_a": "7"}}, {Options: map[string]string{"xla_a": "7", "xla_c": "AUTO"}}} {
		if err := p.merge(q); err != nil {
			t.Fatal(err)
		}
	}
	// env_option_overrides = 7: {key = 1, value = 2: {string_field = 1}}
	want := "\x3a\x0c\x0a\x05xla_a\x12\x03\x0a\x017" + "\x3a\x0f\x0a\x05xla_b\x12\x06\x0a\x04True" + "\x3a\x0f\x0a\x05xla_c\x12\x06\x0a\x04AUTO"
	if got := p.overrides(); !bytes.Equal(got, []byte(want)) {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := p.merge(Program{Options: map[string]string{"xla_b": "false"}}); err == nil || !strings.Contains(err.Error(), "xla_b") {
		t.Errorf("got error %v", err)
	}
}

func TestCacheKeysIgnoreTheNameOnly(t *testing.T) {
	key := func(text, options string, environment ...string) string {
		return cacheKey(text, []byte(options), environment...)
	}
	base := key(module(mainText("f")), "o", "h", "p")
	if key(strings.Replace(module(mainText("f")), "@loris_op_test", "@other_7", 1), "o", "h", "p") != base {
		t.Error("the program's name counts")
	}
	others := map[string]string{
		"text":       key(module(mainText("g")), "o", "h", "p"),
		"options":    key(module(mainText("f")), "o2", "h", "p"),
		"hardware":   key(module(mainText("f")), "o", "h2", "p"),
		"boundaries": key(module(mainText("f")), "oh", "", "p"),
		"attributes": key(strings.Replace(module(mainText("f")), "test {", "test attributes {stablehlo.num_replicas = 2} {", 1), "o", "h", "p"),
	}
	for what, k := range others {
		if k == base {
			t.Errorf("%s do not count", what)
		}
	}
}

func TestCustomCallText(t *testing.T) {
	in := []shapes.Shape{shapes.Make(dtypes.Float32, 8, 128), shapes.Make(dtypes.Int32)}
	out := []shapes.Shape{shapes.Make(dtypes.Float32, 8, 128), shapes.Make(dtypes.Uint8, 0)}
	for name, c := range map[string]struct {
		call CustomCall
		want string
	}{
		"string": {
			CustomCall{Target: "__cudnn$fmhaSoftmax", Config: "{\"a\":1}\n", ResultLayouts: [][]int{{0, 1}, nil}},
			`    %c:2 = "stablehlo.custom_call"(%a0, %a1) {call_target_name = "__cudnn$fmhaSoftmax", api_version = 2 : i32, backend_config = "{\22a\22:1}\0A", ` +
				`operand_layouts = [dense<[1, 0]> : tensor<2xindex>, dense<> : tensor<0xindex>], result_layouts = [dense<[0, 1]> : tensor<2xindex>, dense<[0]> : tensor<1xindex>]} ` +
				`: (tensor<8x128xf32>, tensor<i32>) -> (tensor<8x128xf32>, tensor<0xui8>)` + "\n" +
				`    "func.return"(%c#0, %c#1) : (tensor<8x128xf32>, tensor<0xui8>) -> ()` + "\n",
		},
		"typed": {
			CustomCall{Target: "k", Config: map[string]any{"i": int32(-1), "s": "x\\", "l": []int64{1, 20}, "e": []int64{}, "b": true, "f": float32(0.5), "n": int64(3)},
				Aliases: []Alias{{Result: 0, Operand: 0}}, SideEffect: true},
			`    %c:2 = "stablehlo.custom_call"(%a0, %a1) {call_target_name = "k", api_version = 4 : i32, ` +
				`backend_config = {b = true, e = array<i64>, f = 5.000000000e-01 : f32, i = -1 : i32, l = array<i64: 1, 20>, n = 3 : i64, s = "x\5C"}, ` +
				`operand_layouts = [dense<[1, 0]> : tensor<2xindex>, dense<> : tensor<0xindex>], result_layouts = [dense<[1, 0]> : tensor<2xindex>, dense<[0]> : tensor<1xindex>], ` +
				`has_side_effect = true, output_operand_aliases = [#stablehlo.output_operand_alias<output_tuple_indices = [0], operand_index = 0, operand_tuple_indices = []>]} ` +
				`: (tensor<8x128xf32>, tensor<i32>) -> (tensor<8x128xf32>, tensor<0xui8>)` + "\n" +
				`    "func.return"(%c#0, %c#1) : (tensor<8x128xf32>, tensor<0xui8>) -> ()` + "\n",
		},
	} {
		if got := string(c.call.Body(in, out)); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, c.want)
		}
	}
	single := string(CustomCall{Target: "k", Config: "", Aliases: []Alias{{}}}.Body(in[:1], out[:1]))
	if !strings.Contains(single, "output_tuple_indices = [], operand_index = 0") {
		t.Errorf("a single result is no tuple: %s", single)
	}
}

func TestCustomCallMisuseIsNamed(t *testing.T) {
	s := []shapes.Shape{shapes.Make(dtypes.Float32, 2, 3)}
	for want, c := range map[string]CustomCall{
		"configuration is int": {Config: 1},
		"attribute \"x\"":      {Config: map[string]any{"x": 1}},
		"no order of the axes": {Config: "", OperandLayouts: [][]int{{0, 0}}},
		"2 layouts for 1":      {Config: "", ResultLayouts: [][]int{nil, nil}},
		"alias":                {Config: "", Aliases: []Alias{{Operand: 1}}},
	} {
		func() {
			defer func() {
				if r := fmt.Sprint(recover()); !strings.Contains(r, want) {
					t.Errorf("got panic %s, want one with %q", r, want)
				}
			}()
			c.Body(s, s)
		}()
	}
}
