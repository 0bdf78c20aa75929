package backend

import (
	"unsafe"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"
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

// UploadFloats copies values to the device in dtype Float32 or BFloat16 (rounded to nearest even).
func UploadFloats(d *Device, dtype dtypes.DType, values []float32, dims ...int) (*tensors.Tensor, error) {
	if dtype == dtypes.Float32 {
		return UploadValues(d, values, dims...)
	}
	return d.Upload(shapes.Make(dtype, dims...), EncodeFloats(dtype, values))
}

// EncodeFloats returns values as the bytes of dtype, one of Float32, BFloat16.
func EncodeFloats(dtype dtypes.DType, values []float32) []byte {
	if dtype == dtypes.Float32 {
		return Bytes(values)
	}
	half := make([]bfloat16.BFloat16, len(values))
	for i, v := range values {
		half[i] = bfloat16.FromFloat32(v)
	}
	if len(half) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&half[0])), 2*len(half))
}

// DownloadFloats copies a Float32 or BFloat16 tensor to the host as float32.
func DownloadFloats(t *tensors.Tensor) ([]float32, error) {
	if t.DType() == dtypes.Float32 {
		return tensors.CopyFlatData[float32](t)
	}
	half, err := tensors.CopyFlatData[bfloat16.BFloat16](t)
	if err != nil {
		return nil, err
	}
	out := make([]float32, len(half))
	for i, v := range half {
		out[i] = v.Float32()
	}
	return out, nil
}
