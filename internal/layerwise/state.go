package layerwise

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/internal/training"
)

// stateFile holds a saved session: trainable values and moments; the optimizer and the number of steps as metadata.
const (
	stateFile      = "optimizer.safetensors"
	stateSteps     = "steps"
	stateOptimizer = "optimizer"
	stateLossScale = "loss_scale"
)

// named walks over the session's tensors: "7.m" is the first moment of parameter 7, or its codes, of which "7.m.absmax" are
// the scales. Names do not depend on how parameters are grouped, which differs from device to device.
func (s *Session) named(visit func(name string, at **tensors.Tensor) error) error {
	first := 0
	for _, g := range s.all() {
		name := func(j int) string { return fmt.Sprintf("%d.", first+j) }
		for j, p := range g.params {
			if err := visit(name(j)+"value", p.at); err != nil {
				return err
			}
		}
		at := 0
		for j, p := range g.params {
			if len(g.state) == 0 { // what an encoder computes has no moments
				break
			}
			for _, h := range s.optim.state(p) {
				if err := visit(name(j)+h.name, &g.state[at]); err != nil {
					return err
				}
				at++
			}
		}
		first += len(g.params)
	}
	return nil
}

// SaveState writes trainable values, moments and the number of steps into dir, which exists. Where the last update turns
// out to have failed, the error says so, and it is taken back.
func (s *Session) SaveState(dir string) error {
	if s.closed {
		return errClosed
	}
	var all []safetensors.Tensor
	err := s.named(func(name string, at **tensors.Tensor) error {
		err := s.near(*at, func(held *tensors.Tensor) (err error) {
			t := safetensors.Tensor{Name: name, DType: savedDType(held), Shape: held.Shape().Dimensions}
			if t.DType == "U8" {
				t.Data, err = tensors.CopyFlatData[uint8](held)
			} else {
				var values []float32
				values, err = backend.DownloadFloats(held)
				t.Data = backend.Bytes(values)
			}
			all = append(all, t)
			return err
		})
		if err != nil {
			return fmt.Errorf("save state: %s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return s.recovered(err)
	}
	if err := s.sweep(); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	about := map[string]string{stateSteps: strconv.Itoa(s.steps), stateOptimizer: s.optim.String()}
	if s.scaler != nil {
		about[stateLossScale] = s.scaler.String()
	}
	return safetensors.Write(filepath.Join(dir, stateFile), all, about)
}

// savedDType is the dtype in which a tensor is saved: codes as they are, numbers in float32.
func savedDType(t *tensors.Tensor) string {
	if t.DType() == dtypes.Uint8 {
		return "U8"
	}
	return "F32"
}

// LoadState puts back what SaveState wrote, all or nothing.
func (s *Session) LoadState(dir string) (err error) {
	if s.closed {
		return errClosed
	}
	f, err := safetensors.Open(filepath.Join(dir, stateFile))
	if err != nil {
		return fmt.Errorf("load state: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	steps, err := strconv.Atoi(f.Metadata()[stateSteps])
	if err != nil {
		return fmt.Errorf("%s: metadata %q is no number: %w", f.Path(), stateSteps, err)
	}
	was, ok := f.Metadata()[stateOptimizer]
	if !ok {
		was = string(training.AdamW) // the only one there was before its name was saved
	}
	if was != s.optim.String() {
		return fmt.Errorf("%s: the optimizer was %q, this training's is %q: set Optim to the checkpoint's, or load its weights and start afresh",
			f.Path(), was, s.optim)
	}
	scaling := s.scaler
	if text, ok := f.Metadata()[stateLossScale]; ok && scaling != nil {
		if scaling, err = parseScaler(text); err != nil {
			return fmt.Errorf("%s: %w", f.Path(), err)
		}
	}
	var places []**tensors.Tensor
	var fresh []*tensors.Tensor
	err = s.named(func(name string, at **tensors.Tensor) error {
		t, err := s.loadTensor(f, name, *at)
		if err == nil {
			places, fresh = append(places, at), append(fresh, t)
		}
		return err
	})
	if err != nil {
		return errors.Join(err, backend.Free(fresh...))
	}
	_ = s.model.Device.Sync() // what fails now was computed from the values that go
	s.retire(nil)
	err = s.sweep()
	for i, at := range places {
		err = errors.Join(err, backend.Free(*at))
		*at = fresh[i]
	}
	for _, g := range s.all() {
		err = errors.Join(err, s.page(g))
	}
	s.steps, s.scaler = steps, scaling
	s.dropAhead()
	return errors.Join(err, s.DropGradients())
}

// loadTensor uploads a saved tensor in shape and dtype of the one it replaces.
func (s *Session) loadTensor(f *safetensors.File, name string, like *tensors.Tensor) (*tensors.Tensor, error) {
	info, ok := f.Info(name)
	dims := like.Shape().Dimensions
	dtype := savedDType(like)
	if !ok || info.DType != dtype || fmt.Sprint(info.Shape) != fmt.Sprint(dims) {
		return nil, fmt.Errorf("%s: tensor %q is %s %v, this training has %s %v: the checkpoint is of another model or adapter configuration",
			f.Path(), name, info.DType, info.Shape, dtype, dims)
	}
	raw, err := f.Read(name)
	if err != nil {
		return nil, err
	}
	if like.DType() == dtypes.Float32 || dtype == "U8" {
		return s.model.Device.Upload(like.Shape(), raw)
	}
	values, err := safetensors.Float32s("F32", raw)
	if err != nil {
		return nil, err
	}
	return backend.UploadFloats(s.model.Device, like.DType(), values, dims...)
}
