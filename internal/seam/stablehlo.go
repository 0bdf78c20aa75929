package seam

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/support/exceptions"
)

// elementTypes are StableHLO's names as go-xla spells them, and that of float8, which only values inside a [Body] can have:
// go-xla has no parameters and results of it.
var elementTypes = map[dtypes.DType]string{
	dtypes.Bool: "i1", dtypes.Int8: "i8", dtypes.Int16: "i16", dtypes.Int32: "i32", dtypes.Int64: "i64",
	dtypes.Uint8: "ui8", dtypes.Uint16: "ui16", dtypes.Uint32: "ui32", dtypes.Uint64: "ui64",
	dtypes.Float16: "f16", dtypes.BFloat16: "bf16", dtypes.Float32: "f32", dtypes.Float64: "f64",
	dtypes.F8E4M3FN: "f8E4M3FN",
}

// TensorType returns the StableHLO type of a shape, "tensor<2x3xf32>". It panics for dtypes that operations cannot have.
func TensorType(s shapes.Shape) string {
	name, ok := elementTypes[s.DType]
	if !ok {
		exceptions.Panicf("seam: an operation cannot take or return dtype %s (shape %s)", s.DType, s)
	}
	var b strings.Builder
	b.WriteString("tensor<")
	for _, d := range s.Dimensions {
		fmt.Fprintf(&b, "%dx", d)
	}
	return b.String() + name + ">"
}

// TensorTypes returns the types of several shapes, separated by commas.
func TensorTypes(s []shapes.Shape) string {
	types := make([]string, len(s))
	for i := range s {
		types[i] = TensorType(s[i])
	}
	return strings.Join(types, ", ")
}

// Return is the last statement of a [Body]: it returns the named values, which have the shapes out.
func Return(values []string, out []shapes.Shape) string {
	return fmt.Sprintf("    \"func.return\"(%s) : (%s) -> ()\n", strings.Join(values, ", "), TensorTypes(out))
}

// Quote returns s as an MLIR string literal.
func Quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			fmt.Fprintf(&b, "\\%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String() + `"`
}

// CustomCall is a call of something that XLA knows by name.
type CustomCall struct {
	Target string // "__gpu$xla.gpu.ptx", "__cudnn$fmhaSoftmax"

	// Config is the backend configuration: a string, for calls of API version 2 (cuDNN), or a map[string]any of string,
	// bool, int32, int64, float32 and []int64, for typed calls of version 4.
	Config any

	// OperandLayouts and ResultLayouts say in which order the axes lie in memory, fastest first; nil, as a whole or for
	// one value, is row-major.
	OperandLayouts, ResultLayouts [][]int

	Aliases    []Alias // results that overwrite an operand
	SideEffect bool    // the call must run although its results are not used
}

// Alias says that a result lives in the memory of an operand of the same size.
type Alias struct{ Result, Operand int }

// Statement returns the call as a line of a [Body]: name is that of its results, "%c" for %c#0, %c#1, …; in and out are
// the shapes of operands and results.
func (c CustomCall) Statement(name string, operands []string, in, out []shapes.Shape) string {
	if len(operands) != len(in) || len(out) == 0 {
		exceptions.Panicf("seam: custom call %s: %d operands with %d shapes and %d results", c.Target, len(operands), len(in), len(out))
	}
	var version int
	var config string
	switch v := c.Config.(type) {
	case string:
		version, config = 2, Quote(v)
	case map[string]any:
		version, config = 4, dictionary(v)
	default:
		exceptions.Panicf("seam: custom call %s: the configuration is %T; use a string or a map[string]any", c.Target, c.Config)
	}
	attributes := fmt.Sprintf("call_target_name = %s, api_version = %d : i32, backend_config = %s, operand_layouts = %s, result_layouts = %s",
		Quote(c.Target), version, config, layouts(c.OperandLayouts, in), layouts(c.ResultLayouts, out))
	if c.SideEffect {
		attributes += ", has_side_effect = true"
	}
	if len(c.Aliases) > 0 {
		attributes += ", output_operand_aliases = " + aliases(c.Aliases, len(in), len(out))
	}
	return fmt.Sprintf("    %s:%d = \"stablehlo.custom_call\"(%s) {%s} : (%s) -> (%s)\n",
		name, len(out), strings.Join(operands, ", "), attributes, TensorTypes(in), TensorTypes(out))
}

// Body returns an operation that is this call alone, of all parameters in order.
func (c CustomCall) Body(in, out []shapes.Shape) Body {
	operands, results := make([]string, len(in)), make([]string, len(out))
	for i := range in {
		operands[i] = "%a" + strconv.Itoa(i)
	}
	for i := range out {
		results[i] = "%c#" + strconv.Itoa(i)
	}
	return Body(c.Statement("%c", operands, in, out) + Return(results, out))
}

// dictionary writes a map as an MLIR dictionary attribute, keys in order.
func dictionary(m map[string]any) string {
	var entries []string
	for k, v := range m {
		var text string
		switch v := v.(type) {
		case string:
			text = Quote(v)
		case bool:
			text = strconv.FormatBool(v)
		case int32:
			text = fmt.Sprintf("%d : i32", v)
		case int64:
			text = fmt.Sprintf("%d : i64", v)
		case float32:
			text = fmt.Sprintf("%.9e : f32", v)
		case []int64:
			text = "array<i64>"
			if len(v) > 0 {
				text = "array<i64: " + strings.ReplaceAll(strings.Trim(fmt.Sprint(v), "[]"), " ", ", ") + ">"
			}
		default:
			exceptions.Panicf("seam: custom call attribute %q is %T; use string, bool, int32, int64, float32 or []int64", k, v)
		}
		entries = append(entries, k+" = "+text)
	}
	slices.Sort(entries)
	return "{" + strings.Join(entries, ", ") + "}"
}

func layouts(given [][]int, s []shapes.Shape) string {
	if given != nil && len(given) != len(s) {
		exceptions.Panicf("seam: %d layouts for %d values", len(given), len(s))
	}
	texts := make([]string, len(s))
	for i := range s {
		rank := s[i].Rank()
		order := make([]int, rank)
		for k := range order {
			order[k] = rank - 1 - k
		}
		if given != nil && given[i] != nil {
			sorted := slices.Sorted(slices.Values(given[i]))
			slices.Reverse(sorted)
			if !slices.Equal(sorted, order) {
				exceptions.Panicf("seam: layout %v is no order of the axes of shape %s", given[i], s[i])
			}
			order = given[i]
		}
		text := strings.ReplaceAll(fmt.Sprint(order), " ", ", ")
		if rank == 0 {
			text = ""
		}
		texts[i] = fmt.Sprintf("dense<%s> : tensor<%dxindex>", text, rank)
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

func aliases(list []Alias, numIn, numOut int) string {
	texts := make([]string, len(list))
	for i, a := range list {
		if a.Operand < 0 || a.Operand >= numIn || a.Result < 0 || a.Result >= numOut {
			exceptions.Panicf("seam: alias %+v of a call with %d operands and %d results", a, numIn, numOut)
		}
		index := strconv.Itoa(a.Result)
		if numOut == 1 {
			index = "" // a single result is no tuple
		}
		texts[i] = fmt.Sprintf("#stablehlo.output_operand_alias<output_tuple_indices = [%s], operand_index = %d, operand_tuple_indices = []>", index, a.Operand)
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// PTX is a kernel for NVIDIA GPUs as PTX text. The driver compiles it when it first runs.
//
// Its parameters are 64-bit pointers: those of the operands, then those of the results, unless OutputIndices says at which
// positions the results are.
type PTX struct {
	Name          string // of the .entry
	Source        string
	Grid, Block   [3]int // zero is one
	SharedBytes   int    // of dynamic shared memory
	OutputIndices []int64
}

// Call returns the custom call that launches the kernel.
func (k PTX) Call() CustomCall {
	config := map[string]any{
		"name": k.Name, "kernel_type": "ptx", "kernel_data": k.Source, "shared_mem_bytes": int32(k.SharedBytes),
	}
	for i, axis := range []string{"x", "y", "z"} {
		config["grid_"+axis], config["block_"+axis] = int32(max(1, k.Grid[i])), int32(max(1, k.Block[i]))
	}
	if k.OutputIndices != nil {
		config["output_indices"] = k.OutputIndices
	}
	return CustomCall{Target: "__gpu$xla.gpu.ptx", Config: config}
}
