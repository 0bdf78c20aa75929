#include "gated_backward.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 3) loris_geglu_backward_scaled(GATE_PARAMETERS) { gateBackward<GELUTanh, true>(GATE_ARGUMENTS); }
