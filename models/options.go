package models

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/gomlx/compute/dtypes"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/quant"
)

// DType names the number format of weights and activations, as config.json's torch_dtype does.
type DType string

// The formats. The zero value is the device's own: BFloat16 on CUDA (Float16 before compute capability 8.0), Float32 elsewhere.
const (
	DefaultDType DType = ""
	Float32      DType = "float32"
	BFloat16     DType = "bfloat16"
	// Float16 is for GPUs that have no bfloat16 (before compute capability 8.0). Training then scales the loss, as
	// torch.amp.GradScaler does, so that small gradients do not vanish.
	Float16 DType = "float16"
	// Float8E4M3, as ComputeDType only, is BFloat16 but for the products with frozen weights of the layers, forward and backward,
	// which are in float8 E4M3: activations and gradients rounded with a scale for each row, weights with one. It is for training on
	// GPUs of compute capability 8.9 or more (Ada, Hopper), where those products take about half the time; adapters, norms,
	// attention and the head keep their format, and so do DoRA's linears and the steps of generation. Losses come
	// out a little higher: docs/performance.md has figures. Backends without Loris's kernels compute the same numbers, slowly.
	Float8E4M3 DType = "float8_e4m3fn"
)

func (d DType) resolve(dev *backend.Device) (dtypes.DType, error) {
	switch d {
	case DefaultDType:
		return dev.DType(), nil
	case Float32:
		return dtypes.Float32, nil
	case BFloat16:
		return dtypes.BFloat16, nil
	case Float16:
		return dtypes.Float16, nil
	case Float8E4M3:
		return 0, &UnsupportedError{Field: "DType", Value: fmt.Sprintf("%q", string(d)), Supported: "it as Options.ComputeDType only"}
	}
	return 0, &UnsupportedError{Field: "DType", Value: fmt.Sprintf("%q", string(d)), Supported: `"", "float32", "bfloat16", "float16"`}
}

// Options says how a model is loaded. The zero value loads it unquantized onto the embedded Go backend.
type Options struct {
	// Backend is "" (pure Go), "xla:cpu" or "xla:cuda", with GoMLX's options after commas: "xla:cuda,tf32=false".
	Backend string

	// Quantization, if not nil, quantizes the linears of the layers on the way in. On host backends, whose kernels for
	// quantized weights are slow, they are then kept dequantized, with the values that the bits stand for; see KeepPacked.
	// For a checkpoint that is quantized already it may be nil; if not, only the compute dtype may differ from what the
	// checkpoint's config says.
	Quantization *quant.BitsAndBytesConfig

	// DType is the format of the weights that are not quantized.
	DType DType

	// ComputeDType is the format of activations and matrix products. Zero: Quantization's BNB4BitComputeDType if that is
	// given, else DType (where transformers would compute in float32, which no trainer does: TRL turns bfloat16 on).
	// Float8E4M3 has the products of frozen weights in float8.
	ComputeDType DType

	// Attention is the route of attention in training and over prompts; new tokens have their own. RouteAuto is the fastest that applies,
	// RouteTiled runs everywhere in the same memory. (transformers' attn_implementation.)
	Attention attention.Route

	// Trainable makes all weights trainable (full fine-tuning); it excludes Quantization.
	Trainable bool

	// KeepPacked keeps quantized weights packed on host backends too: an eighth or a quarter of the memory, several times
	// slower.
	KeepPacked bool

	// ProgramCache is a folder in which XLA's compiled programs are kept, so that the next process with the same graphs,
	// compile options, plugin and hardware does not compile them again; "" keeps none. It is made if it does not exist and
	// may be emptied at will. It holds code that this process runs: keep it private. All models of one plugin in a process
	// share the folder given last; the Go backend compiles nothing and makes none.
	ProgramCache string

	// MaxDeviceMemory, if positive, is how many bytes of the device's memory are counted on where memory is spent by what is
	// free, as training's automatic residual budget is; what is in use counts. On CUDA a training batch that would need more, by
	// what its compiled programs say, is refused; "memory_fraction" in Backend bounds everything.
	MaxDeviceMemory int64

	// Progress, if not nil, shows a progress bar while weights are loaded.
	Progress io.Writer

	// Logger gets what is worth knowing about the load. Nil: slog.Default().
	Logger *slog.Logger
}

// Validate reports options that contradict each other.
func (o Options) Validate() error {
	if o.MaxDeviceMemory < 0 {
		return fmt.Errorf("Options.MaxDeviceMemory is %d, want a number of bytes, or 0 for no limit", o.MaxDeviceMemory)
	}
	if o.Attention < attention.RouteAuto || o.Attention > attention.RouteCuDNN {
		return fmt.Errorf("Options.Attention is %v: want attention.RouteAuto, RouteTiled, RouteDense or RouteCuDNN", o.Attention)
	}
	if o.Trainable && o.DType == Float16 {
		return fmt.Errorf("Options.Trainable with DType float16: updates of float16 weights are lost in rounding; leave DType empty and set ComputeDType float16")
	}
	if o.Trainable && o.ComputeDType == Float8E4M3 {
		return fmt.Errorf("Options.Trainable with ComputeDType %s: only products of frozen weights are in float8; leave ComputeDType empty", Float8E4M3)
	}
	if o.Quantization != nil {
		if err := o.Quantization.Validate(); err != nil {
			return err
		}
		if o.Trainable && quantized(o.Quantization) {
			return fmt.Errorf("Options.Trainable with Quantization: quantized weights cannot be trained; attach adapters with peft.GetPeftModel instead")
		}
	}
	return nil
}

func (o Options) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.Default()
	}
	return o.Logger
}
