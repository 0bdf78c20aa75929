package peft

import (
	"errors"
	"fmt"
	"math"

	lapackgonum "gonum.org/v1/gonum/lapack/gonum"
	"gonum.org/v1/gonum/mat"
)

// The decompositions of weights that new adapters start from, in float64 on the host. A weight is W [out, in].

// matrix is values [rows, columns], row-major, in float64.
func matrix(values []float32, rows, columns int) *mat.Dense {
	wide := make([]float64, len(values))
	for i, v := range values {
		wide[i] = float64(v)
	}
	return mat.NewDense(rows, columns, wide)
}

// narrow is m row after row in float32.
func narrow(m mat.Matrix) []float32 {
	rows, columns := m.Dims()
	out := make([]float32, 0, rows*columns)
	for i := range rows {
		for j := range columns {
			out = append(out, float32(m.At(i, j)))
		}
	}
	return out
}

// singular are the largest r singular values of a matrix [m, n] with their vectors: U [m, r], S descending, V [n, r].
type singular struct {
	U, V *mat.Dense
	S    []float64
}

// exactSVD is the size of the smaller side up to which all singular values are computed.
const exactSVD = 256

var errNoSVD = errors.New("the singular value decomposition did not converge: look for NaN or infinite values in the weight")

// topSingular returns the largest r singular values and their vectors, 0 < r <= the smaller side. Large matrices are not
// decomposed in full: see krylov.
func topSingular(w *mat.Dense, r int) (singular, error) {
	m, n := w.Dims()
	if block := r + krylovMore; min(m, n) > max(exactSVD, 3*block) {
		return krylov(w, r, block)
	}
	return fullSVD(w, r)
}

func fullSVD(w *mat.Dense, r int) (singular, error) {
	m, n := w.Dims()
	var svd mat.SVD
	if !svd.Factorize(w, mat.SVDThin) {
		return singular{}, errNoSVD
	}
	var u, v mat.Dense
	svd.UTo(&u)
	svd.VTo(&v)
	return singular{U: mat.DenseCopyOf(u.Slice(0, m, 0, r)), V: mat.DenseCopyOf(v.Slice(0, n, 0, r)), S: svd.Values(nil)[:r]}, nil
}

const (
	krylovMore   = 8 // columns beyond r: with them the r-th value converges, too
	krylovDepth  = 5 // products of a cycle
	krylovCycles = 60
	// krylovStill is how little the singular values may move, relative to the largest, in the last cycle.
	krylovStill = 1e-9
)

// krylov is block Krylov iteration with restarts (Musco and Musco, arXiv:1504.05477, algorithm 2): the best singular vectors
// within the span of V, WᵀW V, (WᵀW)² V, … begin the next cycle, until the values stand still. Values come from below; where
// many of them are nearly equal, as those of noise, vectors among equals are arbitrary, and so they are in a full
// decomposition.
func krylov(w *mat.Dense, r, block int) (singular, error) {
	m, n := w.Dims()
	if m < n {
		var t mat.Dense
		t.CloneFrom(w.T())
		s, err := krylov(&t, r, block)
		return singular{U: s.V, V: s.U, S: s.S}, err
	}
	v := startBlock(n, block)
	var before []float64
	for range krylovCycles {
		s, err := krylovCycle(w, v)
		if err != nil {
			return s, err
		}
		v = s.V
		if before != nil && still(before[:r], s.S[:r]) {
			return singular{U: mat.DenseCopyOf(s.U.Slice(0, m, 0, r)), V: mat.DenseCopyOf(s.V.Slice(0, n, 0, r)), S: s.S[:r]}, nil
		}
		before = s.S
	}
	return singular{}, errNoSVD
}

func still(before, now []float64) bool {
	for i, s := range now {
		if !(math.Abs(s-before[i]) <= krylovStill*now[0]) {
			return false
		}
	}
	return true
}

// startBlock is [n, block] of normal numbers, always the same.
func startBlock(n, block int) *mat.Dense {
	values := make([]float32, n*block)
	newStream(0, "krylov").normal(values, 1)
	return matrix(values, n, block)
}

// krylovCycle returns the best approximations within the Krylov space of v [n, block], as many as v has columns.
func krylovCycle(w, v *mat.Dense) (singular, error) {
	m, n := w.Dims()
	_, block := v.Dims()
	basis := mat.NewDense(n, block*(krylovDepth+1), nil)
	images := mat.NewDense(m, block*(krylovDepth+1), nil) // W·basis
	next := mat.DenseCopyOf(v)
	for i := range krylovDepth + 1 {
		if i > 0 {
			done := basis.Slice(0, n, 0, i*block).(*mat.Dense)
			for range 2 { // once more for what rounding left
				var onto, within mat.Dense
				onto.Mul(done.T(), next)
				within.Mul(done, &onto)
				next.Sub(next, &within)
			}
		}
		q := orthonormal(next)
		basis.Slice(0, n, i*block, (i+1)*block).(*mat.Dense).Copy(q)
		image := images.Slice(0, m, i*block, (i+1)*block).(*mat.Dense)
		image.Mul(w, q)
		if i < krylovDepth {
			next = new(mat.Dense)
			next.Mul(w.T(), image)
		}
	}
	var inner singular
	var err error
	if inner, err = fullSVD(images, block); err != nil {
		return singular{}, err
	}
	var vs mat.Dense
	vs.Mul(basis, inner.V)
	return singular{U: inner.U, V: &vs, S: inner.S}, nil
}

// orthonormal is an orthonormal basis of the columns of a [m, n], m >= n: the Q of its QR decomposition.
func orthonormal(a *mat.Dense) *mat.Dense {
	q, _ := thinQR(a)
	return q
}

// thinQR is A = Q R by Householder reflections, Q [m, k], R [k, n], k the smaller side.
func thinQR(a *mat.Dense) (q, r *mat.Dense) {
	m, n := a.Dims()
	k := min(m, n)
	work := mat.DenseCopyOf(a)
	raw, tau, lapack := work.RawMatrix(), make([]float64, k), lapackgonum.Implementation{}
	size := []float64{0}
	lapack.Dgeqrf(m, n, raw.Data, raw.Stride, tau, size, -1)
	lapack.Dgeqrf(m, n, raw.Data, raw.Stride, tau, make([]float64, int(size[0])), int(size[0]))
	r = mat.NewDense(k, n, nil)
	for i := range k {
		for j := i; j < n; j++ {
			r.Set(i, j, work.At(i, j))
		}
	}
	q = mat.DenseCopyOf(work.Slice(0, m, 0, k))
	raw = q.RawMatrix()
	lapack.Dorgqr(m, k, k, raw.Data, raw.Stride, tau, size, -1)
	lapack.Dorgqr(m, k, k, raw.Data, raw.Stride, tau, make([]float64, int(size[0])), int(size[0]))
	return q, r
}

// randomSVD is torch's svd_lowrank(W, q=r, niter) (arXiv:0909.4061, algorithms 4.4 and 5.1): its accuracy grows with niter.
// The random numbers are those of the stream, not torch's.
func randomSVD(w *mat.Dense, r, niter int, from stream) (singular, error) {
	m, n := w.Dims()
	if m < n {
		var t mat.Dense
		t.CloneFrom(w.T())
		s, err := randomSVD(&t, r, niter, from)
		return singular{U: s.V, V: s.U, S: s.S}, err
	}
	start := make([]float32, n*r)
	from.normal(start, 1)
	var y mat.Dense
	y.Mul(w, matrix(start, n, r))
	q := orthonormal(&y)
	for range niter {
		var z, back mat.Dense
		z.Mul(w.T(), q)
		back.Mul(w, orthonormal(&z))
		q = orthonormal(&back)
	}
	var b, u mat.Dense
	b.Mul(q.T(), w) // [r, n]
	s, err := fullSVD(&b, r)
	if err != nil {
		return s, err
	}
	u.Mul(q, s.U)
	return singular{U: &u, V: s.V, S: s.S}, nil
}

// balanced are the factors of Σ s_i u_i v_iᵀ / divisor with each s split evenly: A [r, in] = √S Vᵀ, B [out, r] = U √S.
func (s singular) balanced(divisor float64) (a, b *mat.Dense) {
	out, r := s.U.Dims()
	in, _ := s.V.Dims()
	a, b = mat.NewDense(r, in, nil), mat.NewDense(out, r, nil)
	for k, value := range s.S {
		root := math.Sqrt(value / divisor)
		for i := range in {
			a.Set(k, i, root*s.V.At(i, k))
		}
		for o := range out {
			b.Set(o, k, root*s.U.At(o, k))
		}
	}
	return a, b
}

// subtract takes scale·B·A from w [out, in], all in float32 as PEFT has it.
func subtract(w []float32, scale float64, a, b []float32, r int) {
	in := len(a) / r
	for o := range len(w) / in {
		row := make([]float32, in)
		for k := range r {
			f := b[o*r+k]
			for i, v := range a[k*in : (k+1)*in] {
				row[i] += f * v
			}
		}
		for i, v := range row {
			w[o*in+i] -= float32(scale) * v
		}
	}
}

// checkRank refuses a rank that a decomposition of W [out, in] does not have.
func checkRank(how Init, r, in, out int) error {
	if r > min(in, out) {
		return fmt.Errorf("init_lora_weights %q: rank %d is more than a weight [%d, %d] has; use r %d at most (rank_pattern), or %q",
			string(how), r, out, in, min(in, out), string(InitTrue))
	}
	return nil
}
