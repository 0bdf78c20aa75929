package kernels

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// The kernels' sources, compiled for the host, compute what the twins do.
func TestKernelsEqualTheirTwinsOnTheHost(t *testing.T) {
	compiler, err := exec.LookPath("c++")
	if err != nil {
		t.Skip("no C++ compiler")
	}
	program := filepath.Join(t.TempDir(), "emulate")
	build := exec.Command(compiler, "-std=c++17", "-O1", "-ffp-contract=off", "-Wno-unknown-pragmas", "-o", program, "testdata/emulate.cpp")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d := open(t, "go")
	kernels := map[string]int{}
	all := append(problems(t), // and some in which a block has more than one tile, of two stripes, and stripes have up to 19 blocks
		gatedBackwardProblem(SiLU, dtypes.BFloat16, 130, 133*gatedColumns, 16, 64, 0.2, true),
		gatedBackwardProblem(SiLU, dtypes.BFloat16, 581, 28*gatedColumns, 16, 0, 0, false),
		dealt(gatedBackwardProblem(SiLU, dtypes.BFloat16, 300, 6*gatedColumns, 16, 64, 0, true), 7),
		dealt(gatedBackwardProblem(GELUTanh, dtypes.BFloat16, 310, 5*gatedColumns, 16, 8, 0, false), 6),
		dealt(gatedBackwardProblem(SiLU, dtypes.BFloat16, 300, 5*gatedColumns, 16, 64, 0.2, false), 6),
	)
	for _, p := range all {
		if p.launch == nil || strings.Contains(p.launch.kernel, "glu_backward") && p.operands == nil {
			continue
		}
		kernels[p.launch.kernel]++
		got := emulate(t, program, p, p.onDevice())
		if p.next != nil {
			second := p
			var operands []array
			second.launch, operands = p.next(got)
			kernels[second.launch.kernel]++
			got = emulate(t, program, second, operands)
		}
		if p.finish != nil {
			got = p.finish(got)
		}
		var want [][]float64
		for _, a := range run(t, d, p.twin, p.inputs) {
			want = append(want, wideFloats(a.floats))
		}
		requireClose(t, p, got, want, toTwin)
		requireClose(t, p, got, p.want, toReference)
	}
	if compiled, err := ptx.ReadDir("."); err != nil || len(kernels) != len(compiled) {
		t.Errorf("ran %v, which are not all kernels (error %v)", kernels, err)
	}
}

// dealt is a problem of GatedBackward whose tiles are dealt to that many blocks.
func dealt(p problem, blocks int) problem {
	k := p.launch
	k.grid[0], k.sizes[2] = blocks, int32(mostShares(ceilDiv(int(k.sizes[1]), gatedRows), int(k.sizes[0])/gatedColumns, blocks))
	for _, s := range k.out[2:] {
		s.Dimensions[0] = int(k.sizes[2])
	}
	return p
}

// emulate runs a problem's kernel and returns its results.
func emulate(t *testing.T, program string, p problem, operands []array) []array {
	t.Helper()
	k := p.launch
	sizes, err := binary.Append(nil, binary.NativeEndian, k.sizes)
	if err != nil {
		t.Fatal(err)
	}
	operands = append(slices.Clone(operands), array{shape: shapes.Make(dtypes.Int32, len(k.sizes)), bytes: sizes})
	var request bytes.Buffer
	fmt.Fprintln(&request, k.kernel, max(1, k.grid[0]), max(1, k.grid[1]), k.threads, k.shared, len(operands)+len(k.out))
	argument := func(raw []byte) {
		request.Write(binary.NativeEndian.AppendUint64(nil, uint64(len(raw))))
		request.Write(raw)
	}
	at := 0
	for _, a := range operands {
		argument(a.raw())
		at += len(a.raw())
	}
	for i, s := range k.out {
		aliased := false
		for _, alias := range k.aliases {
			if alias.Result == i {
				request.Write(binary.NativeEndian.AppendUint64(nil, ^uint64(alias.Operand))) // -1-operand
				aliased = true
			}
		}
		if !aliased { // whatever is not written is NaN
			argument(bytes.Repeat([]byte{0xff}, bytesOf(s)))
		}
	}
	run := exec.Command(program)
	run.Stdin = &request
	var messages bytes.Buffer
	run.Stderr = &messages
	out, err := run.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", p.name, err, &messages)
	}
	var results []array
	for _, s := range k.out {
		size := bytesOf(s)
		results = append(results, fromRaw(s, out[at:at+size]))
		at += size
	}
	return results
}

// bytesOf is a value's size; GoMLX does not know float8's.
func bytesOf(s shapes.Shape) int {
	if s.DType == dtypes.F8E4M3FN {
		return s.Size()
	}
	return int(s.Memory())
}
