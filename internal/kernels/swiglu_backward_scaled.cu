#include "gated_backward.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 3) loris_swiglu_backward_scaled(GATE_PARAMETERS) { gateBackward<SiLU, true>(GATE_ARGUMENTS); }
