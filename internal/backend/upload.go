package backend

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/safetensors/floats"
)

// element is what Values can take as it is.
type element interface {
	float32 | int32 | uint32 | uint8
}

// Bytes is the memory of values, not a copy of it.
func Bytes[T element](values []T) []byte {
	if len(values) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&values[0])), len(values)*int(unsafe.Sizeof(values[0])))
}

// UploadValues copies values to the device as a tensor of their own dtype.
func UploadValues[T element](d *Device, values []T, dims ...int) (*tensors.Tensor, error) {
	return d.Upload(shapes.Make(dtypes.FromGenericsType[T](), dims...), Bytes(values))
}

// UploadFloats copies values to the device in dtype Float32, BFloat16 or Float16 (rounded to nearest even).
func UploadFloats(d *Device, dtype dtypes.DType, values []float32, dims ...int) (*tensors.Tensor, error) {
	raw, err := EncodeFloats(dtype, values)
	if err != nil {
		return nil, err
	}
	return d.Upload(shapes.Make(dtype, dims...), raw)
}

// weights are the dtypes of weights, by their names in package floats.
var weights = map[dtypes.DType]string{dtypes.Float32: "F32", dtypes.BFloat16: "BF16", dtypes.Float16: "F16"}

// EncodeFloats returns values as the bytes of dtype, Float32, BFloat16 or Float16; those of float32 are not copied.
func EncodeFloats(dtype dtypes.DType, values []float32) ([]byte, error) {
	if dtype == dtypes.Float32 {
		return Bytes(values), nil
	}
	if name, ok := weights[dtype]; ok {
		return floats.Encode(name, values)
	}
	return nil, fmt.Errorf("dtype %s is not supported for weights", dtype)
}

// DecodeFloats is the inverse of EncodeFloats.
func DecodeFloats(dtype dtypes.DType, raw []byte) ([]float32, error) {
	name, ok := weights[dtype]
	if !ok {
		return nil, fmt.Errorf("a tensor of %s holds no weights", dtype)
	}
	out := make([]float32, len(raw)/dtype.Size())
	return out, floats.Decode(out, name, raw)
}

// DownloadFloats copies a Float32, BFloat16 or Float16 tensor to the host as float32. The tensor itself gets no copy there: GoMLX
// would keep one for as long as the tensor lives, and one of zeros after a failure, which the next reader would take for
// the values.
func DownloadFloats(t *tensors.Tensor) ([]float32, error) {
	if !t.HasLocal() {
		defer t.FinalizeLocal()
	}
	if t.DType() == dtypes.Float32 {
		return tensors.CopyFlatData[float32](t)
	}
	var out []float32
	var decoded error
	err := t.ConstBytes(func(raw []byte) { out, decoded = DecodeFloats(t.DType(), raw) })
	return out, errors.Join(err, decoded)
}
