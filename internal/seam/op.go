package seam

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/support/exceptions"
)

// Body is an operation: lines of StableHLO (in the generic form, two ranks indented) that compute from the parameters
// %a0, %a1, … and end in a func.return, see [Return]. Names other than these are its own.
type Body string

// Names that mark what the compile hook acts on. The hexadecimal text after the last two is the content.
const (
	opPrefix      = "loris_op_"      // a placeholder function
	programPrefix = "loris_program_" // a function that nobody calls, with the settings of the program
	bodyPrefix    = "loris_body_"    // the first parameter of either
)

type functionKey string // finds a placeholder in the state of its graph

// Call adds an operation to the graph: body over in, with results of the shapes out. Equal operations of a graph share
// one function. It has no gradient; customvjp gives it one.
//
// Like all graph-building functions it panics on misuse: no inputs, no results, a dtype that XLA cannot pass, or a backend
// that was not opened through the seam (ask [Available] first).
func Call(body Body, out []shapes.Shape, in ...*graph.Node) []*graph.Node {
	if len(in) == 0 || len(out) == 0 {
		exceptions.Panicf("seam.Call: needs at least one input and one result, got %d and %d", len(in), len(out))
	}
	g := in[0].Graph()
	if !Available(g.Backend()) {
		exceptions.Panicf("seam.Call: backend %q was not opened through the seam; use the operation's plain twin", g.Backend().Name())
	}
	inShapes := make([]shapes.Shape, len(in))
	for i, n := range in {
		inShapes[i] = n.Shape()
	}
	name := opName(TensorTypes(inShapes), TensorTypes(out), string(body))
	f, ok := g.State(functionKey(name)).(*graph.Function)
	if !ok {
		f = graph.NewFunction(g, name, func(g *graph.Graph) []*graph.Node {
			for i, s := range inShapes {
				parameter := "a" + strconv.Itoa(i)
				if i == 0 {
					parameter = bodyPrefix + hex.EncodeToString([]byte(body))
				}
				graph.Parameter(g, parameter, s)
			}
			results := make([]*graph.Node, len(out))
			for i, s := range out {
				results[i] = placeholder(g, s)
			}
			return results
		})
		g.AttachState(functionKey(name), f)
	}
	return f.Call(in...)
}

// placeholder is any value of a shape, made without constants and reductions: GoMLX and go-xla share those between
// functions.
func placeholder(g *graph.Graph, s shapes.Shape) *graph.Node {
	switch {
	case s.DType == dtypes.Bool:
		i := placeholder(g, shapes.Make(dtypes.Int8, s.Dimensions...))
		return graph.Equal(i, i)
	case s.IsScalar():
		return graph.Reshape(graph.Iota(g, shapes.Make(s.DType, 1), 0))
	}
	return graph.Iota(g, s, 0)
}

// opName is what an operation of these parameter and result types and that body is called.
func opName(in, out, body string) string {
	return opPrefix + checksum(in, out, body)
}

func checksum(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Program is what one program wants beyond GoMLX's API.
type Program struct {
	// Donate lists inputs of the program, by number, whose memory XLA may use for results. Pass them by
	// graph.DonateTensorBuffer: they are gone after the call.
	Donate []int `json:",omitempty"`

	// Options sets fields of XLA's DebugOptions for this program: "xla_gpu_autotune_level": "0". An unknown name is an
	// error when the program is compiled.
	Options map[string]string `json:",omitempty"`

	// CopyTo makes a program that returns its inputs as they are copy them to this kind of memory: "pinned_host",
	// "device".
	CopyTo string `json:",omitempty"`

	// Number is a name for [Plugin.Footprint], of [NextNumber]; what is compiled does not depend on it. 0 is none.
	Number int64 `json:",omitempty"`
}

// MemoryStats are of a device's allocator, in bytes: in use, the most that were in use, how many there are at most, and how many it
// has taken from the device, in use or not. What the plugin does not tell is -1.
type MemoryStats struct {
	InUse, Peak, Limit, Pool int64
}

// Footprint is what one call of a program takes of the device's memory, in bytes: its arguments, its results, how much of
// the results lies in donated arguments, and what it works in.
type Footprint struct {
	Arguments, Results, Reused, Temporary int64
}

var numbers atomic.Int64

// NextNumber returns a number that no other program of the process has.
func NextNumber() int64 { return numbers.Add(1) }

// Configure sets what the program that g becomes wants; several calls add up, and must not contradict each other. On a
// backend that was not opened through the seam it panics; there programs simply run without.
func Configure(g *graph.Graph, p *Program) {
	if !Available(g.Backend()) {
		exceptions.Panicf("seam.Configure: backend %q was not opened through the seam", g.Backend().Name())
	}
	text, err := json.Marshal(p) // map keys come sorted
	if err != nil {
		exceptions.Panicf("seam.Configure: %v", err)
	}
	name := programPrefix + checksum(string(text))
	if g.State(functionKey(name)) != nil {
		return
	}
	f := graph.NewFunction(g, name, func(g *graph.Graph) []*graph.Node {
		return []*graph.Node{graph.Parameter(g, bodyPrefix+hex.EncodeToString(text), shapes.Make(dtypes.Int32))}
	})
	g.AttachState(functionKey(name), f)
}

// merge adds q's settings to p.
func (p *Program) merge(q Program) error {
	p.Donate = append(p.Donate, q.Donate...)
	for k, v := range q.Options {
		if old, ok := p.Options[k]; ok && old != v {
			return fmt.Errorf("the program asks for %s=%q and for %s=%q", k, old, k, v)
		}
		if p.Options == nil {
			p.Options = map[string]string{}
		}
		p.Options[k] = v
	}
	if q.Number != 0 {
		p.Number = q.Number
	}
	if q.CopyTo != "" {
		if p.CopyTo != "" && p.CopyTo != q.CopyTo {
			return fmt.Errorf("the program asks for copies to %q and to %q", p.CopyTo, q.CopyTo)
		}
		p.CopyTo = q.CopyTo
	}
	if len(p.CopyTo) >= maxMemoryKind {
		return fmt.Errorf("memory kind %q is too long", p.CopyTo)
	}
	return nil
}

// overrides are the options as CompileOptionsProto.env_option_overrides (field 7, a map of OptionOverrideProto with
// string_field 1): appended to a serialized message, they are merged into it.
func (p *Program) overrides() []byte {
	var all []byte
	for _, k := range sortedKeys(p.Options) {
		v := p.Options[k]
		if l := strings.ToLower(v); l == "true" || l == "false" { // XLA reads them as Python spells them
			v = strings.ToUpper(l[:1]) + l[1:]
		}
		entry := append(field(1, []byte(k)), field(2, field(1, []byte(v)))...)
		all = append(all, field(7, entry)...)
	}
	return all
}

// Available tells whether operations of the seam can be used in graphs of a backend: it was opened through the seam, and
// is open.
func Available(b compute.Backend) bool {
	_, ok := Of(b)
	return ok && !b.IsFinalized()
}
