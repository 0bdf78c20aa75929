package sft

import (
	"errors"
	"fmt"
	"image/color"
	"io"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/loris-ml/loris/internal/atomicfile"
)

// Plots in OutputDir.
const (
	lossPlot   = "loss.png"
	ratePlot   = "learning_rate.png"
	memoryPlot = "memory.png"
)

// curve is a line of a plot.
type curve struct {
	label  string
	points plotter.XYs
	color  color.Color
}

var (
	blue = color.RGBA{B: 0xc0, G: 0x60, A: 0xff}
	red  = color.RGBA{R: 0xd0, G: 0x50, A: 0xff}
)

// writePlots draws losses, learning rate and device memory over the steps, as PNG. What has no numbers is not drawn.
func (r *run) writePlots() error {
	in := func(name string) string { return filepath.Join(r.cfg.OutputDir, name) }
	h := r.state.LogHistory
	gib := make(plotter.XYs, len(r.memory))
	for i, p := range r.memory {
		gib[i] = plotter.XY{X: p.X, Y: p.Y / (1 << 30)}
	}
	return errors.Join(
		draw(in(lossPlot), "Loss", "nats per label", curve{"training", points(h, "loss"), blue}, curve{"evaluation", points(h, "eval_loss"), red}),
		draw(in(ratePlot), "Learning rate", "", curve{"", points(h, "learning_rate"), blue}),
		draw(in(memoryPlot), "Device memory in use", "GiB", curve{"", gib, blue}),
	)
}

// points are a metric's values over the steps, but those that are not finite.
func points(history []Metrics, metric string) (xys plotter.XYs) {
	for _, m := range history {
		v, ok := m.Get(metric)
		step, _ := m.Get("step")
		if ok && finite(v) {
			xys = append(xys, plotter.XY{X: step, Y: v})
		}
	}
	return xys
}

// draw draws curves into a file; without any points, it draws nothing.
func draw(path, title, unit string, curves ...curve) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, "step", unit
	p.Add(plotter.NewGrid())
	drawn := false
	for _, c := range curves {
		if len(c.points) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(c.points)
		if err != nil {
			return fmt.Errorf("sft: plot %s: %w", path, err)
		}
		line.Color, dots.Color = c.color, c.color
		line.Width, dots.Radius = vg.Points(1.5), vg.Points(2)
		p.Add(line, dots)
		if c.label != "" {
			p.Legend.Add(c.label, line)
		}
		drawn = true
	}
	if !drawn {
		return nil
	}
	p.Legend.Top = true
	image, err := p.WriterTo(20*vg.Centimeter, 12*vg.Centimeter, "png")
	if err != nil {
		return fmt.Errorf("sft: plot %s: %w", path, err)
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		_, err := image.WriteTo(w)
		return err
	})
}
