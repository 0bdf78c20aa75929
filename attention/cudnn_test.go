package attention

import (
	"encoding/json"
	"math"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
)

// jaxCall is a custom call as JAX makes it; see testdata/make_cudnn.py.
type jaxCall struct {
	Target         string   `json:"target"`
	APIVersion     int      `json:"api_version"`
	Config         any      `json:"config"`
	Names          []string `json:"names"`
	Operands       []string `json:"operands"`
	Results        []string `json:"results"`
	OperandLayouts []any    `json:"operand_layouts"`
	ResultLayouts  []any    `json:"result_layouts"`
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestCuDNNCallsAreJAXs(t *testing.T) {
	var golden struct {
		Cases []struct {
			Name, DType       string
			Dims              []int
			Causal            bool
			Window, Segments  int
			Bias              []int
			Forward, Backward jaxCall
		}
	}
	readJSON(t, "testdata/cudnn_calls.json", &golden)
	d := open(t)
	for _, x := range golden.Cases {
		t.Run(x.Name, func(t *testing.T) {
			g := NewGraph(d.Backend, x.Name)
			dtype := map[string]dtypes.DType{"bfloat16": dtypes.BFloat16, "float16": dtypes.Float16}[x.DType]
			batch, queries, keys := x.Dims[0], x.Dims[1], x.Dims[2]
			q := Parameter(g, "q", shapes.Make(dtype, batch, queries, x.Dims[3], x.Dims[5]))
			k := Parameter(g, "k", shapes.Make(dtype, batch, keys, x.Dims[4], x.Dims[5]))
			o := Options{Causal: x.Causal, Window: x.Window, Scale: 0.25}
			if x.Segments > 1 {
				o.SegmentIDs, o.MaxSegments = Parameter(g, "ids", shapes.Make(dtypes.Int32, batch, queries)), x.Segments
			}
			if x.Bias != nil {
				o.Bias = Parameter(g, "bias", shapes.Make(dtype, x.Bias[0], x.Bias[1], queries, keys))
			}
			c := newCall(q, k, k, o)
			if why := c.whyNotOn(capability{9, 0}); why != "" {
				t.Fatalf("cuDNN is not taken: %s", why)
			}
			compareCalls(t, c.fmha(false), x.Forward)
			compareCalls(t, c.fmha(true), x.Backward)
		})
	}
}

// compareCalls compares what a call is in StableHLO with JAX's, attribute by attribute.
func compareCalls(t *testing.T, f fmha, want jaxCall) {
	t.Helper()
	text, _ := f.statement()
	m := regexp.MustCompile(`^\s*%c:(\d+) = "stablehlo.custom_call"\((.*?)\) \{call_target_name = "(.*?)", api_version = (\d+) : i32, ` +
		`backend_config = "(.*)", operand_layouts = \[(.*)\], result_layouts = \[(.*)\]\} : \((.*)\) -> \((.*)\)\n$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("not a custom call: %s", text)
	}
	var config any
	if err := json.Unmarshal([]byte(strings.ReplaceAll(m[5], `\22`, `"`)), &config); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range f.in {
		names = append(names, v.name)
	}
	for name, pair := range map[string][2]any{
		"target":          {m[3], want.Target},
		"API version":     {m[4], strconv.Itoa(want.APIVersion)},
		"configuration":   {config, want.Config},
		"operand names":   {names, want.Names},
		"operand types":   {strings.Split(m[8], ", "), want.Operands},
		"result types":    {strings.Split(m[9], ", "), want.Results},
		"number":          {m[1], strconv.Itoa(len(want.Results))},
		"operand layouts": {layoutsIn(t, m[6]), want.OperandLayouts},
		"result layouts":  {layoutsIn(t, m[7]), want.ResultLayouts},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: %s is\n%v, want\n%v", f.target, name, pair[0], pair[1])
		}
	}
}

// layoutsIn reads "dense<[1, 0]> : tensor<2xindex>, dense<[0]> : tensor<1xindex>" as JAX's printer shortens it: one axis as
// a number.
func layoutsIn(t *testing.T, text string) (all []any) {
	for _, m := range regexp.MustCompile(`dense<(.*?)>`).FindAllStringSubmatch(text, -1) {
		var list []any
		if err := json.Unmarshal([]byte(m[1]), &list); err != nil {
			t.Fatal(err)
		}
		if len(list) == 1 {
			all = append(all, list[0])
		} else {
			all = append(all, list)
		}
	}
	return all
}

// jaxLists are segment ids and what JAX makes of them for cuDNN.
type jaxLists struct {
	IDs              [][]int32
	Segments         int
	Lengths, Offsets [][]int32
}

func packedCases(t *testing.T) []jaxLists {
	var golden struct{ Cases []jaxLists }
	readJSON(t, "testdata/packed_lists.json", &golden)
	return golden.Cases
}

func TestPackedListsAreJAXs(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		for _, x := range packedCases(t) {
			const heads, kvHeads, dim = 6, 2, 8
			out, err := CallOnceN(d.Backend, func(ids *Node) []*Node {
				s := ids.Shape().Dimensions
				q := Zeros(ids.Graph(), shapes.Make(dtypes.BFloat16, s[0], s[1], heads, dim))
				k := Zeros(ids.Graph(), shapes.Make(dtypes.BFloat16, s[0], s[1], kvHeads, dim))
				return newCall(q, k, k, Options{SegmentIDs: ids, MaxSegments: x.Segments}).pack().operands()
			}, x.IDs)
			if err != nil {
				t.Fatal(err)
			}
			scaled := func(by int32) [][]int32 {
				all := make([][]int32, len(x.Offsets))
				for i, row := range x.Offsets {
					for _, v := range row {
						all[i] = append(all[i], v*by)
					}
				}
				return all
			}
			// JAX 0.10.2 counts keys in steps of the query heads, which later versions correct to those of the key heads.
			for i, want := range [][][]int32{x.Lengths, x.Lengths, scaled(heads * dim), scaled(kvHeads * dim)} {
				if got := out[i].Value(); !reflect.DeepEqual(got, want) {
					t.Errorf("ids %v: list %d is %v, want %v", x.IDs, i, got, want)
				}
			}
		}
	})
}

func TestPackedStatisticsComeBack(t *testing.T) {
	onBackends(t, func(t *testing.T, d *backend.Device) {
		for _, x := range packedCases(t) {
			const heads = 3
			batch, seq := len(x.IDs), len(x.IDs[0])
			out, err := CallOnceN(d.Backend, func(ids *Node) []*Node {
				g := ids.Graph()
				q := Zeros(g, shapes.Make(dtypes.BFloat16, batch, seq, heads, 8))
				p := newCall(q, q, q, Options{SegmentIDs: ids, MaxSegments: x.Segments}).pack()
				lse := AddScalar(Reshape(Iota(g, shapes.Make(dtypes.Float32, batch*heads*seq), 0), batch, heads, seq), 1)
				stats := p.scatter(lse)
				return []*Node{lse, stats, p.gather(stats)}
			}, x.IDs)
			if err != nil {
				t.Fatal(err)
			}
			lse := out[0].Value().([][][]float32)
			if !reflect.DeepEqual(out[2].Value(), lse) {
				t.Errorf("ids %v: %v came back as %v", x.IDs, lse, out[2].Value())
			}
			for i, document := range out[1].Value().([][][]float32) {
				length, start := int(x.Lengths[i/x.Segments][i%x.Segments]), 0
				if flat := flatten(x.Offsets); length > 0 {
					start = int(flat[i])
				}
				for h := range document {
					for at, got := range document[h] {
						want := float32(0)
						if at < length {
							want = lse[start/seq][h][start%seq+at]
						}
						if got != want {
							t.Fatalf("ids %v: statistics of document %d, head %d, query %d are %g, want %g", x.IDs, i, h, at, got, want)
						}
					}
				}
			}
		}
	})
}

func flatten(rows [][]int32) (all []int32) {
	for _, r := range rows {
		all = append(all, r...)
	}
	return all
}

func TestABrokenPromiseAboutSegmentsShows(t *testing.T) {
	d := open(t)
	for _, x := range []struct {
		ids    []int32
		max    int
		broken bool
	}{
		{[]int32{1, 2, 2, 1}, 4, true},
		{[]int32{0, 1, 2, 4}, 4, true},
		{[]int32{0, -1, 1, 1}, 4, true},
		{[]int32{3, 0, 0, 1}, 4, false},
		{[]int32{0, 0, 2, 2}, 1, true},
		{[]int32{0, 1, 0, 0}, 1, true},
		{[]int32{0, 0, 0, 0}, 1, false},
		{[]int32{0, 0, 1, 1}, 1, false}, // taken as 2, and kept apart
	} {
		out, err := CallOnce(d.Backend, func(ids *Node) *Node {
			q := Zeros(ids.Graph(), shapes.Make(dtypes.BFloat16, 1, 4, 1, 8))
			c := newCall(q, q, q, Options{SegmentIDs: ids, MaxSegments: x.max})
			if !c.packs() {
				t.Fatalf("MaxSegments %d: cuDNN is not told of the ids", x.max)
			}
			p := c.pack()
			return p.gather(p.scatter(Zeros(ids.Graph(), shapes.Make(dtypes.Float32, 1, 1, 4))))
		}, [][]int32{x.ids})
		if err != nil {
			t.Fatal(err)
		}
		got := out.Value().([][][]float32)[0][0]
		for _, lse := range got {
			if math.IsNaN(float64(lse)) != x.broken {
				t.Errorf("ids %v, at most %d: statistics %v; want NaN: %v", x.ids, x.max, got, x.broken)
				break
			}
		}
	}
}

func TestCountSegments(t *testing.T) {
	for _, x := range []struct {
		name   string
		ids    []int32
		length int
		want   int
	}{
		{"one document of id 0", []int32{0, 0, 0, 0}, 4, 1},
		{"one document and padding", []int32{1, 1, 1, 0}, 4, 2},
		{"three documents and padding", []int32{1, 1, 2, 3, 0, 0}, 6, 4},
		{"the longest row counts", []int32{1, 1, 0, 1, 4, 0}, 3, 8},
		{"an id that comes twice", []int32{1, 2, 1}, 3, 0},
		{"an id of two rows", []int32{1, 2, 2, 1}, 2, 4},
		{"a negative id", []int32{1, -1}, 2, 0},
		{"a broken row", []int32{1, 1, 1}, 2, 0},
		{"no rows", nil, 2, 0},
	} {
		if got := CountSegments(x.ids, x.length); got != x.want {
			t.Errorf("%s: %d, want %d", x.name, got, x.want)
		}
	}
}
