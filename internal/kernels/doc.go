// Package kernels has the operations of a training step for which Loris brings CUDA kernels of its own: decoding 4-bit
// weights, RMSNorm, gated activations, rotary embeddings and dropout before adapters, forward and backward, in forms that leave
// adapters nearly for free, and what else these need of activations ([Low]) and gradients ([GradientsOfFactors]); cross entropy with its gradient ([CrossEntropy]); and of generating text: products that decode a weight on the way, for few rows ([Product]), and
// attention over a cache ([CacheAttention]).
//
// Every operation is a function on graph nodes with one contract and two ways to compute it: a kernel (*.cu, embedded as
// PTX), where [Available] says so and dtype and shape fit, and otherwise its plain twin out of GoMLX's operations. They
// differ by rounding only; decoded weights do not differ at all where they are a result. The functions have no gradients: backward passes are
// written with them by hand. Like all graph-building functions they panic on misuse.
//
// Activations are matrices, a row for each token. Most results can be followed by pad columns of zeros (0, or a multiple
// of 8): that is where a low-rank factor goes, so that one matrix product covers a weight and its adapters,
//
//	y = [h | hA | 0] · [W | B | 0]ᵀ    dx = [dy | dyB | 0] · [W ; A ; 0].
//
// Sizes reach a kernel as an int32 operand, so one PTX serves all shapes. It is compiled for compute capability 8.0, what
// has float8 (fp8_*.cu, see fp8.go) for 8.9, and the driver makes of it what the GPU runs. After a change to *.cu or *.cuh run compile.sh; a test compares the recorded
// checksums. Tests also run the kernels on the host (testdata/emulate.h), where there is a C++ compiler.
//
// Start reading at launch.go, then rmsnorm.go beside rmsnorm.cu.
package kernels
