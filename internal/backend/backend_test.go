package backend

import (
	"math"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
)

func TestOpenNamesWhatIsWrong(t *testing.T) {
	for spec, want := range map[string]string{
		"cuda":                        `unknown name "cuda"`,
		"xla:":                        "names no PJRT plugin",
		"go:no_such_option":           "no_such_option",
		"xla:/nowhere/plugin_cuda.so": "link-cuda-plugin.sh",
	} {
		if _, err := Open(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%q): got error %v, want one with %q", spec, err, want)
		}
	}
}

func TestFloatsComeBackRoundedToTheirDType(t *testing.T) {
	d, err := Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	in := []float32{0, 1, -1.00390625, 3.1415927, 65504, float32(math.Inf(1))}
	want := map[dtypes.DType][]float32{
		dtypes.Float32:  in,
		dtypes.BFloat16: {0, 1, -1, 3.140625, 65536, float32(math.Inf(1))},
	}
	for dtype, values := range want {
		x, err := UploadFloats(d, dtype, in, 2, 3)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DownloadFloats(x)
		if err != nil {
			t.Fatal(err)
		}
		for i := range values {
			if got[i] != values[i] {
				t.Errorf("%s: value %d is %v, want %v", dtype, i, got[i], values[i])
			}
		}
		if err := Free(x, nil); err != nil {
			t.Error(err)
		}
	}
}
