#include "gated_backward.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 2) loris_swiglu_backward_dropped(GATE_OPERANDS, const uint4* __restrict__ a, GATE_RESULTS) { gateBackward<SiLU, true, true>(GATE_ARGUMENTS, a); }
