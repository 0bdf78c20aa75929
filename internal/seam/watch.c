//go:build cgo

// A watch stands between the seam and the plugin, for tests: it counts buffers and their bytes, and makes executions and
// uploads fail as devices do. A late failure runs the program all the same; its completion event, its results and whatever is
// computed from them then have the error. Tables are exchanged while a watch stands, so that without one nothing of this
// runs.
#include "plugin.h"

enum { NAME = 128 };

typedef struct fault {
  struct fault *next;
  char program[NAME];  // part of the name; SEAM_UPLOAD: copies from the host
  int after;           // so many are spared
  int late;
  PJRT_Error_Code code;
  char text[256];
  int pending, fired;
} fault;

typedef struct {
  const PJRT_Api *real;  // the plugin's table; it stays after the watch, for whoever is still in here
  PJRT_Api *under;       // what the seam calls meanwhile
  bool on;
  pthread_mutex_t mu;  // guards what follows
  fault *faults;
  struct failed { const void *at; const fault *why; } *failed;  // buffers and events with an error
  int nfailed;
  int64_t live, bytes, peak;
  bool counts_bytes;  // what a program works in takes long to find out
} watch;

static watch watches[SLOTS] = {[0 ... SLOTS - 1] = {.mu = PTHREAD_MUTEX_INITIALIZER}};

static PJRT_Error *error_of(const fault *f) { return seam_new_error(f->code, "", f->text); }

static const fault *failure_of(watch *w, const void *at) {
  const fault *why = NULL;
  pthread_mutex_lock(&w->mu);
  for (int i = 0; i < w->nfailed && !why; i++) if (w->failed[i].at == at) why = w->failed[i].why;
  pthread_mutex_unlock(&w->mu);
  return why;
}

static void mark(watch *w, const void *at, const fault *why) {
  pthread_mutex_lock(&w->mu);
  struct failed *grown = realloc(w->failed, (w->nfailed + 1) * sizeof *grown);
  if (!grown) abort();
  w->failed = grown;
  grown[w->nfailed++] = (struct failed){at, why};
  pthread_mutex_unlock(&w->mu);
}

static void forget(watch *w, const void *at) {
  pthread_mutex_lock(&w->mu);
  for (int i = 0; i < w->nfailed; i++) if (w->failed[i].at == at) w->failed[i--] = w->failed[--w->nfailed];
  pthread_mutex_unlock(&w->mu);
}

// sizes is what buffers take; one that a program has taken over, nothing.
static int64_t sizes(watch *w, size_t n, PJRT_Buffer *const *buffers) {
  const PJRT_Api *real = w->real;
  int64_t bytes = 0;
  if (!w->counts_bytes || !HAS(real, PJRT_Buffer_OnDeviceSizeInBytes) || !HAS(real, PJRT_Buffer_IsDeleted)) return 0;
  for (size_t i = 0; i < n; i++) {
    ARGS(PJRT_Buffer_IsDeleted_Args, d);
    ARGS(PJRT_Buffer_OnDeviceSizeInBytes_Args, s);
    d.buffer = s.buffer = buffers[i];
    seam_drop(real, real->PJRT_Buffer_IsDeleted(&d));
    if (d.is_deleted) continue;
    seam_drop(real, real->PJRT_Buffer_OnDeviceSizeInBytes(&s));
    bytes += s.on_device_size_in_bytes;
  }
  return bytes;
}

// take counts bytes that are in use from now on, and those that are for the time of a call.
static void take(watch *w, int64_t bytes, int64_t temporary) {
  pthread_mutex_lock(&w->mu);
  w->bytes += bytes;
  if (w->bytes + temporary > w->peak) w->peak = w->bytes + temporary;
  pthread_mutex_unlock(&w->mu);
}

// made counts new buffers, and gives them the failure of what they were made from.
static void made(watch *w, size_t n, PJRT_Buffer *const *buffers, const fault *why) {
  pthread_mutex_lock(&w->mu);
  w->live += n;
  pthread_mutex_unlock(&w->mu);
  for (size_t i = 0; why && i < n; i++) mark(w, buffers[i], why);
}

// arrived counts a new buffer that no program made.
static void arrived(watch *w, PJRT_Buffer *buffer, const fault *why) {
  take(w, sizes(w, 1, &buffer), 0);
  made(w, 1, &buffer, why);
}

// strike returns the fault that is due for a program.
static const fault *strike(watch *w, const char *program) {
  const fault *due = NULL;
  pthread_mutex_lock(&w->mu);
  for (fault *f = w->faults; f; f = f->next) {
    if (!f->pending || !strstr(program, f->program) || f->after-- > 0) continue;
    f->pending = 0;
    f->fired = 1;
    due = f;
  }
  pthread_mutex_unlock(&w->mu);
  return due;
}

// describe finds out a program's name, its number of results, and the bytes that it works in, where the plugin tells.
static PJRT_Error *describe(watch *w, PJRT_LoadedExecutable *loaded, char name[NAME], size_t *outputs, int64_t *temporary) {
  const PJRT_Api *real = w->real;
  ARGS(PJRT_LoadedExecutable_GetExecutable_Args, g);
  g.loaded_executable = loaded;
  PJRT_Error *e = real->PJRT_LoadedExecutable_GetExecutable(&g);
  if (e) return e;
  ARGS(PJRT_Executable_Name_Args, n);
  n.executable = g.executable;
  if (!(e = real->PJRT_Executable_Name(&n))) snprintf(name, NAME, "%.*s", (int)n.executable_name_size, n.executable_name);
  ARGS(PJRT_Executable_NumOutputs_Args, o);
  o.executable = g.executable;
  if (!e) e = real->PJRT_Executable_NumOutputs(&o);
  *outputs = o.num_outputs;
  if (!e && w->counts_bytes && HAS(real, PJRT_Executable_GetCompiledMemoryStats)) {
    ARGS(PJRT_Executable_GetCompiledMemoryStats_Args, s);
    s.executable = g.executable;
    seam_drop(real, real->PJRT_Executable_GetCompiledMemoryStats(&s));
    *temporary = s.temp_size_in_bytes;
  }
  ARGS(PJRT_Executable_Destroy_Args, d);
  d.executable = g.executable;
  seam_drop(real, real->PJRT_Executable_Destroy(&d));
  return e;
}

static PJRT_Error *watch_execute(watch *w, PJRT_LoadedExecutable_Execute_Args *a) {
  char name[NAME] = "";
  size_t outputs = 0;
  int64_t temporary = 0, given = 0;
  PJRT_Error *e = describe(w, a->executable, name, &outputs, &temporary);
  if (e) return e;
  const fault *why = strike(w, name);
  if (why && !why->late) return error_of(why);
  for (size_t i = 0; !why && a->num_devices == 1 && i < a->num_args; i++) why = failure_of(w, a->argument_lists[0][i]);
  for (size_t d = 0; d < a->num_devices; d++) given += sizes(w, a->num_args, a->argument_lists[d]);
  if ((e = w->real->PJRT_LoadedExecutable_Execute(a))) return e;
  int64_t more = -given;
  for (size_t d = 0; d < a->num_devices; d++) more += sizes(w, a->num_args, a->argument_lists[d]) + sizes(w, outputs, a->output_lists[d]);
  take(w, more, temporary);
  for (size_t d = 0; d < a->num_devices; d++) {
    made(w, outputs, a->output_lists[d], why);
    if (why && a->device_complete_events) mark(w, a->device_complete_events[d], why);
  }
  return NULL;
}

static PJRT_Error *watch_await(watch *w, PJRT_Event_Await_Args *a) {
  const fault *why = failure_of(w, a->event);
  PJRT_Error *e = w->real->PJRT_Event_Await(a);
  return e || !why ? e : error_of(why);
}

static PJRT_Error *watch_event_destroy(watch *w, PJRT_Event_Destroy_Args *a) {
  forget(w, a->event);
  return w->real->PJRT_Event_Destroy(a);
}

static PJRT_Error *watch_destroy(watch *w, PJRT_Buffer_Destroy_Args *a) {
  forget(w, a->buffer);
  int64_t bytes = sizes(w, 1, &a->buffer);
  pthread_mutex_lock(&w->mu);
  w->live--;
  w->bytes -= bytes;
  pthread_mutex_unlock(&w->mu);
  return w->real->PJRT_Buffer_Destroy(a);
}

static PJRT_Error *watch_ready(watch *w, PJRT_Buffer_ReadyEvent_Args *a) {
  const fault *why = failure_of(w, a->buffer);
  PJRT_Error *e = w->real->PJRT_Buffer_ReadyEvent(a);
  if (!e && why) mark(w, a->event, why);
  return e;
}

static PJRT_Error *watch_read(watch *w, PJRT_Buffer_ToHostBuffer_Args *a) {
  const fault *why = a->dst ? failure_of(w, a->src) : NULL;
  return why ? error_of(why) : w->real->PJRT_Buffer_ToHostBuffer(a);
}

static PJRT_Error *watch_upload(watch *w, PJRT_Client_BufferFromHostBuffer_Args *a) {
  const fault *why = strike(w, SEAM_UPLOAD);
  if (why && !why->late) return error_of(why);
  PJRT_Error *e = w->real->PJRT_Client_BufferFromHostBuffer(a);
  if (!e) arrived(w, a->buffer, why);
  return e;
}

static PJRT_Error *watch_view(watch *w, PJRT_Client_CreateViewOfDeviceBuffer_Args *a) {
  PJRT_Error *e = w->real->PJRT_Client_CreateViewOfDeviceBuffer(a);
  if (!e) arrived(w, a->buffer, NULL);
  return e;
}

static PJRT_Error *watch_copy_to_device(watch *w, PJRT_Buffer_CopyToDevice_Args *a) {
  PJRT_Error *e = w->real->PJRT_Buffer_CopyToDevice(a);
  if (!e) arrived(w, a->dst_buffer, failure_of(w, a->buffer));
  return e;
}

static PJRT_Error *watch_copy_to_memory(watch *w, PJRT_Buffer_CopyToMemory_Args *a) {
  PJRT_Error *e = w->real->PJRT_Buffer_CopyToMemory(a);
  if (!e) arrived(w, a->dst_buffer, failure_of(w, a->buffer));
  return e;
}

// What the seam calls.
#define WATCHED(X)                                         \
  X(PJRT_LoadedExecutable_Execute, watch_execute)          \
  X(PJRT_Event_Await, watch_await)                         \
  X(PJRT_Event_Destroy, watch_event_destroy)               \
  X(PJRT_Buffer_ReadyEvent, watch_ready)                   \
  X(PJRT_Buffer_CopyToMemory, watch_copy_to_memory)        \
  X(PJRT_Buffer_Destroy, watch_destroy)                    \
  X(PJRT_Buffer_ToHostBuffer, watch_read)                  \
  X(PJRT_Buffer_CopyToDevice, watch_copy_to_device)        \
  X(PJRT_Client_BufferFromHostBuffer, watch_upload)        \
  X(PJRT_Client_CreateViewOfDeviceBuffer, watch_view)

#define WRAP0(entry, f) static PJRT_Error *f##_0(entry##_Args *a) { return f(&watches[0], a); }
#define WRAP1(entry, f) static PJRT_Error *f##_1(entry##_Args *a) { return f(&watches[1], a); }
#define WRAP2(entry, f) static PJRT_Error *f##_2(entry##_Args *a) { return f(&watches[2], a); }
#define WRAP3(entry, f) static PJRT_Error *f##_3(entry##_Args *a) { return f(&watches[3], a); }
WATCHED(WRAP0) WATCHED(WRAP1) WATCHED(WRAP2) WATCHED(WRAP3)
_Static_assert(SLOTS == 4, "one set of wrappers per slot");

#define SET(t, slot, entry, f) (t)->entry = slot == 0 ? f##_0 : slot == 1 ? f##_1 : slot == 2 ? f##_2 : f##_3;
#define SET_UNDER(entry, f) SET(w->under, slot, entry, f)

char *seam_watch(plugin *p, int slot) {
  watch *w = &watches[slot];
  if (w->on) return strdup("the plugin is being watched");
  w->on = true;
  w->live = w->bytes = w->peak = 0;
  w->counts_bytes = false;
  w->real = p->real;
  if (!w->under) w->under = malloc(p->real->struct_size);
  if (!w->under) abort();
  memcpy(w->under, p->real, p->real->struct_size);
  WATCHED(SET_UNDER)
  p->real = w->under;
  return NULL;
}

void seam_unwatch(plugin *p, int slot) {
  watch *w = &watches[slot];
  p->real = w->real;
  pthread_mutex_lock(&w->mu);
  w->nfailed = 0;
  for (fault *f; (f = w->faults); free(f)) w->faults = f->next;
  pthread_mutex_unlock(&w->mu);
  w->on = false;
}

void seam_fault(int slot, const char *program, int after, int late, int code, const char *text) {
  watch *w = &watches[slot];
  fault *f = calloc(1, sizeof *f);
  if (!f) abort();
  f->pending = 1;
  f->after = after;
  f->late = late;
  f->code = (PJRT_Error_Code)code;
  snprintf(f->program, sizeof f->program, "%s", program);
  snprintf(f->text, sizeof f->text, "%s", text);
  pthread_mutex_lock(&w->mu);
  for (fault *g = w->faults; g; g = g->next) g->pending = 0;
  f->next = w->faults;
  w->faults = f;
  pthread_mutex_unlock(&w->mu);
}

int seam_fired(int slot) {
  watch *w = &watches[slot];
  int n = 0;
  pthread_mutex_lock(&w->mu);
  for (const fault *f = w->faults; f; f = f->next) n += f->fired;
  pthread_mutex_unlock(&w->mu);
  return n;
}

void seam_watched_bytes(int slot, int64_t *in_use, int64_t *peak) {
  watch *w = &watches[slot];
  pthread_mutex_lock(&w->mu);
  *in_use = w->bytes;
  *peak = w->peak;
  w->peak = w->bytes;
  w->counts_bytes = true;
  pthread_mutex_unlock(&w->mu);
}

int64_t seam_live_buffers(int slot) {
  watch *w = &watches[slot];
  pthread_mutex_lock(&w->mu);
  int64_t n = w->live;
  pthread_mutex_unlock(&w->mu);
  return n;
}
