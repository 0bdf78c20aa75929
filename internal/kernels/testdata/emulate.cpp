// Runs one kernel on the host. Reads from stdin a line "kernel gridX gridY threads sharedBytes arguments" and then, for each
// argument, its size as int64 and its bytes, or -1-i for the same memory as argument i. Writes all arguments' bytes.
// Arguments end at a page that cannot be touched, so that reading or writing past them ends the program.
#define LORIS_EMULATE
#include "../dropout.cuh"
#include "../fp8.cuh"
#include "../gated.cuh"
#include "../rope.cuh"

#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

namespace nf4 {
#include "../nf4.cu"
#include "../nf4_nested.cu"
#include "../nf4_vector.cu"
#include "../nf4_rows8.cu"
#include "../nf4_rows32.cu"
}
namespace fp8 {
#include "../fp8_weight.cu"
#include "../fp8_weight_nested.cu"
}
namespace fp8_rmsnorm {
#include "../fp8_rmsnorm.cu"
}
namespace fp8_rows {
#include "../fp8_rows.cu"
}
namespace rmsnorm {
#include "../rmsnorm.cu"
}
namespace rmsnorm_backward {
#include "../rmsnorm_backward.cu"
}
namespace gates {
#include "../swiglu.cu"
#include "../geglu.cu"
}
namespace lows {
#include "../swiglu_low.cu"
#include "../geglu_low.cu"
#include "../low.cu"
}
namespace gates_backward {
#include "../swiglu_backward.cu"
#include "../geglu_backward.cu"
#include "../swiglu_backward_scaled.cu"
#include "../geglu_backward_scaled.cu"
#include "../swiglu_backward_dropped.cu"
#include "../geglu_backward_dropped.cu"
}
namespace rope {
#include "../rope.cu"
}
namespace rope_backward {
#include "../rope_backward.cu"
}
namespace dropout_low {
#include "../dropout_low.cu"
}
namespace dropout_product {
#include "../dropout_product.cu"
}
namespace dropout_gradient {
#include "../dropout_gradient.cu"
}
namespace cache_attention {
#include "../cache_attention.cu"
}
namespace factor_gradients {
#include "../factor_gradients.cu"
}
namespace factor_sums {
#include "../factor_sums.cu"
}
namespace cross_entropy {
#include "../cross_entropy.cu"
}

template <class... A, size_t... I>
std::function<void()> prepare(void (*kernel)(A...), const std::vector<void*>& arguments, std::index_sequence<I...>) {
  if (arguments.size() != sizeof...(A)) fail("wrong number of arguments");
  return [=] { kernel((A)arguments[I]...); };
}
template <class... A> std::function<void()> prepare(void (*kernel)(A...), const std::vector<void*>& arguments) {
  return prepare(kernel, arguments, std::index_sequence_for<A...>{});
}

static std::function<void()> find(const std::string& name, const std::vector<void*>& arguments) {
  if (name == "nf4") return prepare(nf4::loris_nf4, arguments);
  if (name == "nf4_nested") return prepare(nf4::loris_nf4_nested, arguments);
  if (name == "rmsnorm") return prepare(rmsnorm::loris_rmsnorm, arguments);
  if (name == "rmsnorm_backward") return prepare(rmsnorm_backward::loris_rmsnorm_backward, arguments);
  if (name == "swiglu") return prepare(gates::loris_swiglu, arguments);
  if (name == "swiglu_low") return prepare(lows::loris_swiglu_low, arguments);
  if (name == "low") return prepare(lows::loris_low, arguments);
  if (name == "geglu_low") return prepare(lows::loris_geglu_low, arguments);
  if (name == "swiglu_backward") return prepare(gates_backward::loris_swiglu_backward, arguments);
  if (name == "geglu") return prepare(gates::loris_geglu, arguments);
  if (name == "swiglu_backward_scaled") return prepare(gates_backward::loris_swiglu_backward_scaled, arguments);
  if (name == "geglu_backward_scaled") return prepare(gates_backward::loris_geglu_backward_scaled, arguments);
  if (name == "swiglu_backward_dropped") return prepare(gates_backward::loris_swiglu_backward_dropped, arguments);
  if (name == "geglu_backward_dropped") return prepare(gates_backward::loris_geglu_backward_dropped, arguments);
  if (name == "geglu_backward") return prepare(gates_backward::loris_geglu_backward, arguments);
  if (name == "fp8_weight") return prepare(fp8::loris_fp8_weight, arguments);
  if (name == "fp8_weight_nested") return prepare(fp8::loris_fp8_weight_nested, arguments);
  if (name == "fp8_rmsnorm") return prepare(fp8_rmsnorm::loris_fp8_rmsnorm, arguments);
  if (name == "fp8_rows") return prepare(fp8_rows::loris_fp8_rows, arguments);
  if (name == "rope") return prepare(rope::loris_rope, arguments);
  if (name == "rope_backward") return prepare(rope_backward::loris_rope_backward, arguments);
  if (name == "nf4_vector") return prepare(nf4::loris_nf4_vector, arguments);
  if (name == "nf4_rows8") return prepare(nf4::loris_nf4_rows8, arguments);
  if (name == "nf4_rows32") return prepare(nf4::loris_nf4_rows32, arguments);
  if (name == "cache_attention") return prepare(cache_attention::loris_cache_attention, arguments);
  if (name == "factor_gradients") return prepare(factor_gradients::loris_factor_gradients, arguments);
  if (name == "factor_sums") return prepare(factor_sums::loris_factor_sums, arguments);
  if (name == "cross_entropy") return prepare(cross_entropy::loris_cross_entropy, arguments);
  if (name == "dropout_low") return prepare(dropout_low::loris_dropout_low, arguments);
  if (name == "dropout_product") return prepare(dropout_product::loris_dropout_product, arguments);
  if (name == "dropout_gradient") return prepare(dropout_gradient::loris_dropout_gradient, arguments);
  fail("no such kernel");
}

static char* guarded(size_t size, size_t alignment) {
  const size_t page = sysconf(_SC_PAGESIZE), whole = (size + page - 1) / page * page;
  char* p = (char*)mmap(nullptr, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || mprotect(p + whole, page, PROT_NONE)) fail("no memory");
  return p + (whole - size) / alignment * alignment;
}

int main() {
  char name[64];
  unsigned gridX, gridY, threads, sharedBytes, count;
  if (scanf("%63s %u %u %u %u %u", name, &gridX, &gridY, &threads, &sharedBytes, &count) != 6 || getchar() != '\n') fail("bad request");
  if (threads % 32) fail("a block is not of whole warps");
  std::vector<void*> arguments;
  std::vector<int64_t> sizes;
  for (unsigned i = 0; i < count; i++) {
    int64_t size;
    if (fread(&size, sizeof size, 1, stdin) != 1) fail("bad request");
    if (size < 0) {
      arguments.push_back(arguments.at(-1 - size));
      sizes.push_back(sizes.at(-1 - size));
      continue;
    }
    char* p = guarded(size, 16);
    if (fread(p, 1, size, stdin) != (size_t)size) fail("bad request");
    arguments.push_back(p);
    sizes.push_back(size);
  }
  emulation.threads.resize(threads);
  emulation.dynamicShared = guarded(sharedBytes, 16);
  emulation.kernel = find(name, arguments);
  blockDim = {threads, 1, 1};
  gridDim = {gridX, gridY, 1};
  for (unsigned y = 0; y < gridY; y++) {
    for (unsigned x = 0; x < gridX; x++) {
      blockIdx = {x, y, 0};
      emulation.runBlock();
    }
  }
  for (unsigned i = 0; i < count; i++) fwrite(arguments[i], 1, sizes[i], stdout);
  return 0;
}
