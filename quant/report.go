package quant

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/gomlx/compute/dtypes"
)

// Weight is one weight of a model, quantized or not, as [NewReport] is told of it.
type Weight struct {
	Name   string       // as in a checkpoint: "model.layers.0.mlp.up_proj.weight"
	Shape  []int        // row-major
	DType  dtypes.DType // of a weight that is not quantized; of a quantized one what it is decoded to, Float32 if not set
	Packed *Packed      // a quantized weight; nil if it is not quantized
	// Kept is the dtype in which memory holds a quantized weight decoded; not set: it holds Packed.
	Kept dtypes.DType
	// Original returns the values before quantization, for the error of a quantized weight. Nil: they are not at hand.
	Original func() ([]float32, error)
}

// Weights is a model that can list its weights, one after the other, so that no two need be in memory at a time.
type Weights interface {
	Weights() iter.Seq2[Weight, error]
}

// Report is what a model's weights take and what quantization has cost them. Its String is a table.
type Report struct {
	Kinds  []KindReport  // by bytes, the largest first
	Layers []LayerReport // in the order of the weights; only layers with quantized weights
}

// KindReport sums up the weights of one kind.
type KindReport struct {
	Kind    string // "nf4", "nf4 double", "int8 kept as float32", …, or the dtype of weights that are not quantized, "bfloat16"
	Weights int    // tensors
	Values  int    // in them
	Bytes   int    // they take in memory, scales included
}

// Bits is how many bits a value takes on average.
func (k KindReport) Bits() float64 { return 8 * float64(k.Bytes) / float64(k.Values) }

// LayerReport sums up the quantized weights of one layer.
type LayerReport struct {
	Layer   string // "model.layers.0"
	Weights int    // quantized tensors
	Bytes   int    // they take in memory
	// Error is ‖decoded - original‖/‖original‖ over those of them whose original values are at hand, NaN if none is.
	Error float64
	// MaxError is the largest |decoded - original|, and Worst the weight that has the largest relative error.
	MaxError float64
	Worst    string
}

// NewReport goes through a model's weights. A weight that cannot be decoded, has other values than its shape says, or whose
// original values do not fit it is an error that names it.
func NewReport(m Weights) (*Report, error) {
	b := reportBuilder{kinds: map[string]*KindReport{}, layers: map[string]*layerSums{}}
	for w, err := range m.Weights() {
		if err != nil {
			return nil, fmt.Errorf("report: %w", err)
		}
		if err := b.add(w); err != nil {
			return nil, fmt.Errorf("report: %s: %w", w.Name, err)
		}
	}
	return b.report(), nil
}

// layerSums are a LayerReport in the making.
type layerSums struct {
	LayerReport
	squares, originals float64 // Σ (decoded - original)², Σ original²
	worst              float64 // relative error of Worst
}

type reportBuilder struct {
	kinds  map[string]*KindReport
	layers map[string]*layerSums
	order  []*layerSums
}

func (b *reportBuilder) add(w Weight) error {
	n, err := size(w.Shape)
	if err != nil {
		return err
	}
	p := w.Packed
	if p == nil {
		if w.DType == dtypes.InvalidDType {
			return fmt.Errorf("neither quantized nor of a dtype")
		}
		b.kind(dtypeName(w.DType)).add(n, w.bytes())
		return nil
	}
	if held, err := size(p.Shape); err != nil || held != n {
		return fmt.Errorf("shape %v, but the quantized weight has %v", w.Shape, p.Shape)
	}
	kind := p.kind()
	if w.Kept != dtypes.InvalidDType {
		kind += " kept as " + dtypeName(w.Kept)
	}
	b.kind(kind).add(n, w.bytes())
	return b.layer(layerOf(w.Name)).add(w, n)
}

// bytes is the memory that the weight takes.
func (w Weight) bytes() int {
	dtype := w.DType
	switch {
	case w.Packed != nil && w.Kept == dtypes.InvalidDType:
		return w.Packed.Bytes()
	case w.Packed != nil:
		dtype = w.Kept
	}
	n, _ := size(w.Shape) // has been checked
	return n * dtype.Size()
}

func dtypeName(d dtypes.DType) string { return strings.ToLower(d.String()) }

func (b *reportBuilder) kind(name string) *KindReport {
	k := b.kinds[name]
	if k == nil {
		k = &KindReport{Kind: name}
		b.kinds[name] = k
	}
	return k
}

func (k *KindReport) add(values, bytes int) {
	k.Weights++
	k.Values += values
	k.Bytes += bytes
}

// kind names the format as reports do.
func (l Layout) kind() string {
	if l.NestedBlocksize > 0 {
		return string(l.QuantType) + " double"
	}
	return string(l.QuantType)
}

func (b *reportBuilder) layer(name string) *layerSums {
	l := b.layers[name]
	if l == nil {
		l = &layerSums{LayerReport: LayerReport{Layer: name}}
		b.layers[name] = l
		b.order = append(b.order, l)
	}
	return l
}

// layerOf is a weight's name up to the first number, "model.layers.0", or without its last part, "lm_head".
func layerOf(weight string) string {
	parts := strings.Split(weight, ".")
	for i, part := range parts {
		if _, err := strconv.Atoi(part); err == nil {
			return strings.Join(parts[:i+1], ".")
		}
	}
	return strings.Join(parts[:max(1, len(parts)-1)], ".")
}

func (l *layerSums) add(w Weight, n int) error {
	l.Weights++
	l.Bytes += w.bytes()
	if w.Original == nil {
		return nil
	}
	original, err := w.Original()
	if err != nil {
		return fmt.Errorf("original values: %w", err)
	}
	if len(original) != n {
		return fmt.Errorf("%d original values for shape %v, want %d", len(original), w.Shape, n)
	}
	dtype := w.DType
	if dtype == dtypes.InvalidDType {
		dtype = dtypes.Float32
	}
	decoded, err := w.Packed.Dequantize(dtype)
	if err != nil {
		return err
	}
	var squares, originals float64
	for i, v := range original {
		e := float64(decoded[i]) - float64(v)
		squares += e * e
		originals += float64(v) * float64(v)
		l.MaxError = max(l.MaxError, math.Abs(e))
	}
	if rel := math.Sqrt(squares / originals); rel > l.worst {
		l.worst, l.Worst = rel, w.Name
	}
	l.squares += squares
	l.originals += originals
	return nil
}

func (b *reportBuilder) report() *Report {
	r := &Report{}
	for _, k := range b.kinds {
		r.Kinds = append(r.Kinds, *k)
	}
	slices.SortFunc(r.Kinds, func(x, y KindReport) int {
		return cmp.Or(cmp.Compare(y.Bytes, x.Bytes), strings.Compare(x.Kind, y.Kind))
	})
	for _, l := range b.order {
		l.Error = math.Sqrt(l.squares / l.originals) // 0/0 where no original is at hand
		r.Layers = append(r.Layers, l.LayerReport)
	}
	return r
}

// String returns the report as two tables: kinds of weights with what they take, and layers with what quantization has
// cost.
func (r *Report) String() string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	total := KindReport{Kind: "all"}
	fmt.Fprint(w, "kind\tweights\tvalues\tbytes\tbits/value\t\n")
	for _, k := range r.Kinds {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%.3f\t\n", k.Kind, k.Weights, k.Values, k.Bytes, k.Bits())
		total.Weights, total.Values, total.Bytes = total.Weights+k.Weights, total.Values+k.Values, total.Bytes+k.Bytes
	}
	if len(r.Kinds) > 1 {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%.3f\t\n", total.Kind, total.Weights, total.Values, total.Bytes, total.Bits())
	}
	w.Flush()
	if len(r.Layers) == 0 {
		return out.String()
	}
	out.WriteByte('\n')
	fmt.Fprint(w, "layer\tquantized\tbytes\trelative error\tlargest\tworst\t\n")
	for _, l := range r.Layers {
		if math.IsNaN(l.Error) {
			fmt.Fprintf(w, "%s\t%d\t%d\t\t\t\t\n", l.Layer, l.Weights, l.Bytes)
			continue
		}
		worst := strings.TrimPrefix(strings.TrimPrefix(l.Worst, l.Layer), ".")
		fmt.Fprintf(w, "%s\t%d\t%d\t%.5f\t%.3g\t%s\t\n", l.Layer, l.Weights, l.Bytes, l.Error, l.MaxError, worst)
	}
	w.Flush()
	return out.String()
}
