package layerwise

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/atomicfile"
	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/safetensors"
)

// Files of a saved session.
const (
	stateTensors = "optimizer.safetensors" // trainable values and moments
	stateSteps   = "optimizer.json"
)

// savedSteps is the content of stateSteps.
type savedSteps struct {
	Steps int `json:"steps"`
}

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

// SaveState writes trainable values, moments and the number of steps into dir, which exists.
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
		return err
	}
	if err := safetensors.Write(filepath.Join(dir, stateTensors), all, map[string]string{"steps": strconv.Itoa(s.steps)}); err != nil {
		return err
	}
	raw, err := json.Marshal(savedSteps{s.steps})
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(filepath.Join(dir, stateSteps), append(raw, '\n'))
}

// LoadState puts back what SaveState wrote, all or nothing.
func (s *Session) LoadState(dir string) (err error) {
	raw, err := os.ReadFile(filepath.Join(dir, stateSteps))
	if err != nil {
		return fmt.Errorf("load state: %w", err)
	}
	var steps savedSteps
	if err := json.Unmarshal(raw, &steps); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, stateSteps), err)
	}
	f, err := safetensors.Open(filepath.Join(dir, stateTensors))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
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
	err = s.retire(nil)
	for i, at := range places {
		err = errors.Join(err, backend.Free(*at))
		*at = fresh[i]
	}
	s.steps = steps.Steps
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
