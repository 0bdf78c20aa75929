// The C half of package seam: copies of PJRT plugins' tables of functions with a few entries replaced.
#ifndef LORIS_SEAM_SHIM_H_
#define LORIS_SEAM_SHIM_H_

#include <stddef.h>
#include <stdint.h>

#include "pjrt_c_api.h"

// What Go makes of a program before it is compiled. Strings are malloc'ed, or NULL where there is nothing.
typedef struct {
  char *error;  // the program is refused; nothing else is set
  char *code;
  size_t code_size;
  char *options;
  size_t options_size;
  char *memory_kind;  // the program is an identity that copies its inputs to this kind of memory
  char *cached;       // the serialized executable, from the cache
  size_t cached_size;
  char *cache_key;  // hand the serialized executable back under this key
  int64_t number;   // say what memory the executable takes under this number; 0: do not
} seam_program;

// What one call of an executable takes of the device's memory, in bytes.
typedef struct {
  int64_t arguments, results, reused, temporary;
} seam_footprint;

// What happened to a program that has a cache key.
enum { SEAM_LOADED, SEAM_STALE, SEAM_SERIALIZED, SEAM_UNSERIALIZABLE };

typedef struct {
  int64_t in_use, peak, limit, pool;
} seam_memory;

// Every char * that is returned is an error message to be freed, or NULL.
char *seam_open(const char *path, int *slot, void **table);
// number is a backend's, see seam_newest; 0 stands for all of the plugin, and for the depth of those to come.
char *seam_set_depth(int slot, int64_t number, int depth);
int seam_depth(int slot, int64_t number);  // negative: the backend is closed
char *seam_sync(int slot, int64_t number);
char *seam_limit(int slot, int64_t number, int runs, int copies);  // waits until at most so many are outstanding on each device
int seam_pending(int slot, int64_t number);
int64_t seam_newest(int slot);  // the number of the backend made last
char *seam_memory_stats(int slot, int64_t number, int device, seam_memory *out);
char *seam_attribute(int slot, int64_t number, int device, const char *name, char *value, size_t size);  // a text; "": the device has no such attribute

// The profiler of a plugin, of which a process has one at a time; data is malloc'ed, a serialized tensorflow.profiler.XSpace.
char *seam_profile_slot(int slot, void **handle);
char *seam_profiled(int slot, void *handle, uint8_t **data, size_t *size);

// What tests use; see watch.c.
#define SEAM_UPLOAD "copy from the host"
char *seam_watch_slot(int slot);
char *seam_unwatch_slot(int slot);
void seam_fault(int slot, const char *program, int after, int late, int code, const char *text);
int seam_fired(int slot);
int64_t seam_live_buffers(int slot);
void seam_watched_bytes(int slot, int64_t *in_use, int64_t *peak);

#endif
