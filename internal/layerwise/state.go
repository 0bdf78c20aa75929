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
)

// stateFile holds a saved session: trainable values and moments, and the number of steps as metadata.
const (
	stateFile  = "optimizer.safetensors"
	stateSteps = "steps"
)

// named walks over the session's tensors: "0.1.m" is the first moment of parameter 1 of group 0.
func (s *Session) named(visit func(name string, at **tensors.Tensor) error) error {
	for i, g := range s.all() {
		for j, p := range g.params {
			name := fmt.Sprintf("%d.%d.", i, j)
			if err := errors.Join(visit(name+"value", p.at), visit(name+"m", &g.m[j]), visit(name+"v", &g.v[j])); err != nil {
				return err
			}
		}
	}
	return nil
}

// SaveState writes trainable values, moments and the number of steps into dir, which exists. Where the last update turns
// out to have failed, the error says so, and it is taken back.
func (s *Session) SaveState(dir string) error {
	var all []safetensors.Tensor
	err := s.named(func(name string, at **tensors.Tensor) error {
		values, err := backend.DownloadFloats(*at)
		if err != nil {
			return fmt.Errorf("save state: %s: %w", name, err)
		}
		all = append(all, safetensors.Tensor{Name: name, DType: "F32", Shape: (*at).Shape().Dimensions, Data: backend.Bytes(values)})
		return nil
	})
	if err != nil {
		return s.recovered(err)
	}
	return safetensors.Write(filepath.Join(dir, stateFile), all, map[string]string{stateSteps: strconv.Itoa(s.steps)})
}

// LoadState puts back what SaveState wrote, all or nothing.
func (s *Session) LoadState(dir string) (err error) {
	f, err := safetensors.Open(filepath.Join(dir, stateFile))
	if err != nil {
		return fmt.Errorf("load state: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	steps, err := strconv.Atoi(f.Metadata()[stateSteps])
	if err != nil {
		return fmt.Errorf("%s: metadata %q is no number: %w", f.Path(), stateSteps, err)
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
	err = s.retire(nil)
	for i, at := range places {
		err = errors.Join(err, backend.Free(*at))
		*at = fresh[i]
	}
	s.steps = steps
	return errors.Join(err, s.DropGradients())
}

// loadTensor uploads a saved tensor in shape and dtype of the one it replaces.
func (s *Session) loadTensor(f *safetensors.File, name string, like *tensors.Tensor) (*tensors.Tensor, error) {
	info, ok := f.Info(name)
	dims := like.Shape().Dimensions
	if !ok || info.DType != "F32" || fmt.Sprint(info.Shape) != fmt.Sprint(dims) {
		return nil, fmt.Errorf("%s: tensor %q is %s %v, this training has F32 %v: the checkpoint is of another model or adapter configuration",
			f.Path(), name, info.DType, info.Shape, dims)
	}
	raw, err := f.Read(name)
	if err != nil {
		return nil, err
	}
	if like.DType() == dtypes.Float32 {
		return s.model.Device.Upload(like.Shape(), raw)
	}
	values, err := safetensors.Float32s("F32", raw)
	if err != nil {
		return nil, err
	}
	return backend.UploadFloats(s.model.Device, like.DType(), values, dims...)
}
