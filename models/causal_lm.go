package models

import (
	"context"
	"errors"
	"fmt"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/offheap"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/internal/training"
)

// CausalLM is a decoder language model on a device. It may be shared by several goroutines and trainers as long as its
// own weights are not trained.
type CausalLM struct {
	arch     Architecture
	run      *layerwise.Model
	options  Options
	path     string
	beside   beside
	src      source             // open while its quantized weights may be saved; else nil
	packs    bool               // quantized linears of layers are packed on the device; else they are dense there
	altered  string             // what has changed the weights since they were loaded; "": nothing
	replaced map[string]encoded // quantized weights that are not the source's any more, by path
	rows     *offheap.Memory    // of the embedding, where they stay on the host; run has its bytes
}

// Config returns the model's configuration.
func (m *CausalLM) Config() Architecture { return m.arch }

// Path is where the model was loaded from; "" for a random one.
func (m *CausalLM) Path() string { return m.path }

// Options returns what the model was loaded with.
func (m *CausalLM) Options() Options { return m.options }

// Close frees the weights and closes the device. Nothing may be running on the model, and nothing may run after it.
func (m *CausalLM) Close() error {
	if _, _, err := m.run.Device.CachedPrograms(); err != nil && m.options.ProgramCache != "" {
		m.options.logger().Warn("compiled programs are not all kept", "error", err, "see", "models.Options.ProgramCache")
	}
	err := errors.Join(m.run.Close(), m.run.Device.Close())
	m.run.Embed.Rows = nil
	if m.src != nil {
		err = errors.Join(err, m.src.Close())
	}
	return errors.Join(err, m.rows.Free())
}

// DeviceMemory returns the most bytes that were in use on the model's device since it was opened, as its allocator tells,
// and what the driver counts now, pools and all; -1 where that is not known.
func (m *CausalLM) DeviceMemory() (peak, driver int64) {
	peak, driver = -1, -1
	if p, ok := m.run.Device.PeakMemory(); ok {
		peak = p
	}
	if d, ok := m.run.Device.DriverMemory(); ok {
		driver = d
	}
	return peak, driver
}

// CompiledPrograms is how many programs have been compiled for the model since it was loaded: what it takes to see that
// something runs without compiling.
func (m *CausalLM) CompiledPrograms() int64 { return m.run.Compiled() }

// Profile runs a function that uses the model and returns what ran on its device meanwhile: for the programs under bench.
func (m *CausalLM) Profile(run func() error) ([]seam.Execution, error) { return m.run.Profile(run) }

// NumParameters counts the model's parameters, 4-bit ones by what they stand for.
func (m *CausalLM) NumParameters() (n int64) {
	d := m.arch.dims()
	n = int64(d.vocab)*int64(d.shape.Hidden) + int64(d.shape.Hidden)
	if !d.tied {
		n += int64(d.vocab) * int64(d.shape.Hidden)
	}
	block := m.arch.tensors()
	for _, norm := range block.Norms {
		n += int64(d.layers) * int64(norm.Size)
	}
	for _, l := range block.Linears() {
		n += int64(d.layers) * int64(l.In) * int64(l.Out)
		if l.Bias {
			n += int64(d.layers) * int64(l.Out)
		}
	}
	return n
}

// Logits returns the next-token scores [batch][seq][vocab] of ids [batch][seq], rows of one length. mask [batch][seq]
// is 1 for tokens and 0 for padding, nil for no padding; positions count from the start of the row, padding included,
// as in transformers. What comes out at padding means nothing.
func (m *CausalLM) Logits(ctx context.Context, ids, mask [][]int) ([][][]float32, error) {
	return m.LogitsWith(ctx, nil, ids, mask)
}

// LogitsWith is Logits with adapters; package peft calls it.
func (m *CausalLM) LogitsWith(ctx context.Context, adapters Adapters, ids, mask [][]int) ([][][]float32, error) {
	flat, segments, err := flatten(ids, mask)
	if err != nil {
		return nil, err
	}
	rows, length := len(ids), len(ids[0])
	values, err := m.run.Logits(ctx, adapters, flat, segments, rows, length)
	if err != nil {
		return nil, err
	}
	out := make([][][]float32, rows)
	vocab := m.run.Vocab
	for i := range out {
		out[i] = make([][]float32, length)
		for j := range out[i] {
			at := (i*length + j) * vocab
			out[i][j] = values[at : at+vocab : at+vocab]
		}
	}
	return out, nil
}

// flatten checks ids and mask and returns them row after row, the mask as segments: 1 for tokens, 0 for padding.
func flatten(ids, mask [][]int) (flat, segments []int32, err error) {
	if len(ids) == 0 || len(ids[0]) == 0 {
		return nil, nil, errors.New("ids are empty")
	}
	if mask != nil && len(mask) != len(ids) {
		return nil, nil, fmt.Errorf("mask has %d rows, ids have %d", len(mask), len(ids))
	}
	for i, row := range ids {
		if len(row) != len(ids[0]) {
			return nil, nil, fmt.Errorf("row %d of ids has %d tokens, row 0 has %d; pad them to one length and give a mask", i, len(row), len(ids[0]))
		}
		for _, id := range row {
			flat = append(flat, int32(id))
		}
		if mask == nil {
			continue
		}
		if len(mask[i]) != len(row) {
			return nil, nil, fmt.Errorf("row %d of mask has %d values, ids have %d", i, len(mask[i]), len(row))
		}
		for j, v := range mask[i] {
			if v != 0 && v != 1 {
				return nil, nil, fmt.Errorf("mask[%d][%d] is %d, want 0 or 1", i, j, v)
			}
			segments = append(segments, int32(v))
		}
	}
	return flat, segments, nil
}

// NewSession starts full fine-tuning of a model loaded with Options.Trainable; package sft calls it.
func (m *CausalLM) NewSession(o training.SessionOptions) (training.Session, error) {
	if !m.options.Trainable {
		return nil, errors.New("the model's weights are frozen: load it with Options.Trainable, or attach adapters with peft.GetPeftModel")
	}
	return m.SessionWith(nil, o)
}

// SessionWith starts training of adapters, and of the weights if they are trainable; package peft calls it.
func (m *CausalLM) SessionWith(adapters Adapters, o training.SessionOptions) (training.Session, error) {
	return layerwise.NewSession(m.run, adapters, o)
}
