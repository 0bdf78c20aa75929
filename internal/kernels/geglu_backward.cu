#include "gated_backward.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 3) loris_geglu_backward(GATE_PARAMETERS) { gateBackward<GELUTanh>(GATE_ARGUMENTS); }
