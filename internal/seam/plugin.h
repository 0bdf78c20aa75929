// What the C files of package seam share.
#ifndef LORIS_SEAM_PLUGIN_H_
#define LORIS_SEAM_PLUGIN_H_

#define _GNU_SOURCE  // a kind of lock
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"

enum { SLOTS = 4, DEVICES = 32, RING = 256, KIND = 64 };

// Events that are still to be waited for, oldest first. Who waits holds `waiting`, so that an empty queue means that
// everything has ended; head and tail belong to the plugin's mu, which nobody holds while waiting.
typedef struct {
  pthread_mutex_t waiting;
  PJRT_Event *events[RING];
  unsigned head, tail;
} queue;

// A client of the plugin, which Go calls a backend. It keeps the list of its devices for as long as it lives.
typedef struct {
  PJRT_Client *client;
  int64_t number;  // from 1, by age
  unsigned depth;  // executions in flight per device; 0: wait for each
  PJRT_Device *const *devices;
  size_t ndevices;
} backend;

typedef struct {
  PJRT_Device *device;  // NULL: free
  backend *owner;
  queue runs, copies;
} lane;

// One opened plugin. Hooks get no context from PJRT, so plugins have numbered slots with hooks of their own.
typedef struct {
  const PJRT_Api *real;
  PJRT_Api *table;  // what go-xla has
  pthread_mutex_t mu;
  unsigned depth;       // of backends to come
  int64_t newest;       // the last one's number
  backend **backends;   // belongs to mu
  int nbackends;
  pthread_rwlock_t asking;  // held by who asks something of a device: its backend must not go meanwhile
  lane lanes[DEVICES];
  struct copier { PJRT_LoadedExecutable *exec; char kind[KIND]; } *copiers;  // identity programs that are copies
  int ncopiers;

  // A program's first execution has the device to itself, other launches share it. cuDNN prepares attention then, and records for
  // that what is launched on the program's stream, as if only its own thread launched: what others launch meanwhile would be
  // lost, or fail with it.
  pthread_rwlock_t launching;
  PJRT_LoadedExecutable **fresh;  // what has not been executed yet; belongs to mu
  int nfresh;
} plugin;

#define ARGS(T, v) T v; memset(&v, 0, sizeof v); v.struct_size = T##_STRUCT_SIZE
#define HAS(real, entry) ((real)->struct_size >= offsetof(PJRT_Api, entry) + sizeof(void *) && (real)->entry)

// errors.c
PJRT_Error *seam_new_error(PJRT_Error_Code code, const char *before, const char *text);
void seam_error_destroy(const PJRT_Api *real, PJRT_Error_Destroy_Args *a);
void seam_error_message(const PJRT_Api *real, PJRT_Error_Message_Args *a);
PJRT_Error *seam_error_code(const PJRT_Api *real, PJRT_Error_GetCode_Args *a);
char *seam_message(const PJRT_Api *real, PJRT_Error *e);
char *seam_told(const PJRT_Api *real, PJRT_Error *e);
void seam_drop(const PJRT_Api *real, PJRT_Error *e);
PJRT_Error *seam_late(const PJRT_Api *real, PJRT_Error *e);
PJRT_Error *seam_keep_first(const PJRT_Api *real, PJRT_Error *first, PJRT_Error *second);

// watch.c
char *seam_watch(plugin *p, int slot);
void seam_unwatch(plugin *p, int slot);

// profile.c
char *seam_profile_start(const PJRT_Api *real, void **out);
char *seam_profile_stop(const PJRT_Api *real, void *handle, uint8_t **data, size_t *size);

// launch.c
PJRT_Error *seam_launch(plugin *p, PJRT_LoadedExecutable_Execute_Args *a);
void seam_set_fresh(plugin *p, PJRT_LoadedExecutable *exec, bool fresh);

// compile.c
PJRT_Error *seam_compile(plugin *p, int slot, PJRT_Client_Compile_Args *a);

#endif
