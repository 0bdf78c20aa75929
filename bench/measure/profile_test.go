package measure

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loris-ml/loris/internal/seam"
)

func TestProfileSumsKernelsAndPauses(t *testing.T) {
	at := func(program, name string, start, us int) seam.Execution {
		return seam.Execution{Program: program, Name: name, Start: time.Duration(start) * time.Microsecond, Duration: time.Duration(us) * time.Microsecond}
	}
	var out strings.Builder
	err := writeProfile(&out, []seam.Execution{
		at("forward", "gemm", 100, 4), at("forward", "gemm", 105, 4), at("", "copy", 106, 1), at("backward", "norm", 112, 2),
		at("backward", "norm", 1000, 2),
	})
	const want = `ms,runs,program,op,kernel
0.886,1,backward,,long pauses
0.008,2,forward,,gemm
0.004,2,backward,,norm
0.003,1,backward,,pause behind forward
0.001,1,,,copy
0.001,1,forward,,pauses
0.012,5,,,busy
0.890,,,,idle
`
	if got := sorted(out.String()); err != nil || got != sorted(want) {
		t.Errorf("got %v, error %v, want %v", out.String(), err, want)
	}
}

func TestKindsAddUp(t *testing.T) {
	at := func(name string, start, ms int) seam.Execution {
		return seam.Execution{Name: name, Start: time.Duration(start) * time.Millisecond, Duration: time.Duration(ms) * time.Millisecond}
	}
	got := byKind([]seam.Execution{at("nvjet_sm90", 10, 4), at("loris_nf4_nested", 12, 4), at("loop_add_fusion", 20, 2), at("cudnn_sdpa", 22, 6)}, 2)
	want := map[string]float64{"products": 2, "dequantize": 2, "elementwise": 1, "attention": 3, "pauses": 2, "overlap": -1, "all": 9}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// sorted puts lines in an order that does not depend on that of equal times.
func sorted(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
