package peft

import (
	"math"

	"gonum.org/v1/gonum/mat"
)

// incrementalPCA finds principal components batch by batch (scikit-learn's IncrementalPCA, as PEFT has it in
// peft/utils/incremental_pca.py): a batch is decomposed together with what is known of those before it.
type incrementalPCA struct {
	n          int // components wanted
	seen       float64
	mean, vari []float64  // of each feature
	components *mat.Dense // [n, features]; nil before the first batch
	singular   []float64  // [n]
	ratio      []float64  // [n] share of the variance that each explains
}

// fit takes a batch [samples, features], which it overwrites; fewer samples or features than components are not enough.
func (p *incrementalPCA) fit(x *mat.Dense) error {
	samples, features := x.Dims()
	mean, vari := p.moments(x)
	batchMean := columnMeans(x)
	for i := range samples {
		row := x.RawRowView(i)
		for j := range row {
			row[j] -= batchMean[j]
		}
	}
	all := x
	if p.components != nil {
		all = mat.NewDense(p.n+samples+1, features, nil)
		for k := range p.n {
			for j, v := range p.components.RawRowView(k) {
				all.Set(k, j, p.singular[k]*v)
			}
		}
		all.Slice(p.n, p.n+samples, 0, features).(*mat.Dense).Copy(x)
		factor := math.Sqrt(p.seen / (p.seen + float64(samples)) * float64(samples))
		for j := range features {
			all.Set(p.n+samples, j, factor*(p.mean[j]-batchMean[j]))
		}
	}
	s, err := topSingular(all, p.n)
	if err != nil {
		return err
	}
	p.seen += float64(samples)
	p.mean, p.vari = mean, vari
	p.components, p.singular = mat.DenseCopyOf(s.V.T()), s.S
	signs(p.components)
	total := 0.0
	for _, v := range vari {
		total += v * p.seen
	}
	p.ratio = make([]float64, p.n)
	for k, v := range s.S {
		p.ratio[k] = v * v / total
	}
	return nil
}

// moments are mean and variance of all that was seen and x.
func (p *incrementalPCA) moments(x *mat.Dense) (mean, vari []float64) {
	samples, features := x.Dims()
	n, batch := float64(samples), columnMeans(x)
	mean, vari = make([]float64, features), make([]float64, features)
	for j := range features {
		m2 := 0.0
		for i := range samples {
			d := x.At(i, j) - batch[j]
			m2 += d * d
		}
		mean[j], vari[j] = batch[j], m2/n
		if p.seen > 0 {
			all := p.seen + n
			d := batch[j] - p.mean[j]
			mean[j] = (p.mean[j]*p.seen + batch[j]*n) / all
			vari[j] = (p.vari[j]*p.seen + m2 + d*d*p.seen*n/all) / all
		}
	}
	return mean, vari
}

func columnMeans(x *mat.Dense) []float64 {
	samples, features := x.Dims()
	means := make([]float64, features)
	for i := range samples {
		for j, v := range x.RawRowView(i) {
			means[j] += v / float64(samples)
		}
	}
	return means
}

// signs makes the largest element of each row positive, so that a component keeps its sign from batch to batch.
func signs(m *mat.Dense) {
	rows, _ := m.Dims()
	for i := range rows {
		row, most := m.RawRowView(i), 0.0
		for _, v := range row {
			if math.Abs(v) > math.Abs(most) {
				most = v
			}
		}
		if most < 0 {
			for j := range row {
				row[j] = -row[j]
			}
		}
	}
}

// cosines are those between the rows of a and b.
func cosines(a, b *mat.Dense) []float64 {
	rows, _ := a.Dims()
	out := make([]float64, rows)
	for i := range rows {
		x, y := mat.NewVecDense(len(a.RawRowView(i)), a.RawRowView(i)), mat.NewVecDense(len(b.RawRowView(i)), b.RawRowView(i))
		out[i] = mat.Dot(x, y) / (mat.Norm(x, 2) * mat.Norm(y, 2))
	}
	return out
}
