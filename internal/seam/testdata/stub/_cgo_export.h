// Stands in for what cgo generates, when the C files are compiled on their own.
#include "shim.h"

void loris_seam_compile(int slot, char *code, size_t size, char *options, size_t options_size, char *hardware, seam_program *out);
void loris_seam_measured(int slot, int64_t number, seam_footprint *f);
void loris_seam_cached(int slot, char *key, int event, char *data, size_t size);
