package measure

import (
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
)

// ProductRate is how many TFLOP/s a device reaches in products of bfloat16 matrices [n, n], one behind the other for at least
// the time given: what it sustains, not what it does when rested.
func ProductRate(d *backend.Device, n int, during time.Duration) (tflops float64, err error) {
	const chain = 16
	x, err := noise(d, n, 1)
	if err != nil {
		return 0, err
	}
	w, err := noise(d, n, 1/math.Sqrt(float64(n))) // so that products are as large as what they are of
	if err != nil {
		return 0, errors.Join(err, backend.Free(x))
	}
	defer func() { err = errors.Join(err, backend.Free(x, w)) }()
	exec, err := NewExec(d.Backend, func(x, w *Node) *Node {
		for range chain {
			x = MatMul(x, w)
		}
		return x
	})
	if err != nil {
		return 0, err
	}
	defer exec.Finalize()
	run := func() error {
		out, err := exec.Call(x, w)
		return errors.Join(err, backend.Free(out...), d.Sync())
	}
	if err := run(); err != nil { // compiles
		return 0, err
	}
	products, started := 0, time.Now()
	for time.Since(started) < during {
		if err := run(); err != nil {
			return 0, err
		}
		products += chain
	}
	return 2 * math.Pow(float64(n), 3) * float64(products) / time.Since(started).Seconds() / 1e12, nil
}

// noise is a matrix [n, n] of normal random numbers: zeros would be multiplied faster.
func noise(d *backend.Device, n int, deviation float64) (*tensors.Tensor, error) {
	random := rand.New(rand.NewPCG(11, 13))
	values := make([]float32, n*n)
	for i := range values {
		values[i] = float32(random.NormFloat64() * deviation)
	}
	return backend.UploadFloats(d, dtypes.BFloat16, values, n, n)
}
