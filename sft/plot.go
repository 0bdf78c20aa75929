package sft

import (
	"fmt"
	"image/color"
	"io"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/loris-ml/loris/internal/atomicfile"
)

const plotFile = "loss.png"

// plotLoss draws the training and evaluation losses of a log history over the steps, as a PNG. Without any, it draws
// nothing.
func plotLoss(path string, history []Metrics) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = "Loss", "step", "nats per label"
	p.Add(plotter.NewGrid())
	drawn := false
	for _, curve := range []struct {
		metric, label string
		color         color.Color
	}{
		{"loss", "training", color.RGBA{B: 0xc0, G: 0x60, A: 0xff}},
		{"eval_loss", "evaluation", color.RGBA{R: 0xd0, G: 0x50, A: 0xff}},
	} {
		var points plotter.XYs
		for _, m := range history {
			loss, ok := m.Get(curve.metric)
			step, _ := m.Get("step")
			if ok && finite(loss) {
				points = append(points, plotter.XY{X: step, Y: loss})
			}
		}
		if len(points) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return fmt.Errorf("sft: plot the %s loss: %w", curve.label, err)
		}
		line.Color, dots.Color = curve.color, curve.color
		line.Width, dots.Radius = vg.Points(1.5), vg.Points(2)
		p.Add(line, dots)
		p.Legend.Add(curve.label, line)
		drawn = true
	}
	if !drawn {
		return nil
	}
	p.Legend.Top = true
	image, err := p.WriterTo(20*vg.Centimeter, 12*vg.Centimeter, "png")
	if err != nil {
		return fmt.Errorf("sft: plot the loss: %w", err)
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		_, err := image.WriteTo(w)
		return err
	})
}
