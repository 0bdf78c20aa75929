//go:build cgo

// A PJRT plugin is one struct of function pointers. go-xla gets a copy of it in which a handful of entries lead here
// first. Nothing else of the plugin is touched, and entries newer than this header are passed through.
#include <dlfcn.h>

#include "plugin.h"

static plugin plugins[SLOTS];
static int nplugins;
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;

static PJRT_Error *wait_and_destroy(const PJRT_Api *real, PJRT_Event *event) {
  ARGS(PJRT_Event_Await_Args, w);
  w.event = event;
  PJRT_Error *e = real->PJRT_Event_Await(&w);
  ARGS(PJRT_Event_Destroy_Args, d);
  d.event = event;
  seam_drop(real, real->PJRT_Event_Destroy(&d));
  return e;
}

// owner_of finds the backend of a device. Call with mu held.
static backend *owner_of(plugin *p, PJRT_Device *device) {
  for (int i = 0; i < p->nbackends; i++)
    for (size_t k = 0; k < p->backends[i]->ndevices; k++) if (p->backends[i]->devices[k] == device) return p->backends[i];
  return NULL;
}

// lane_of finds or makes the lane of a backend's device; NULL when there are too many devices. Call with mu held.
static lane *lane_of(plugin *p, backend *owner, PJRT_Device *device) {
  lane *unused = NULL;
  for (int i = 0; i < DEVICES; i++) {
    if (p->lanes[i].device == device) return &p->lanes[i];
    if (!p->lanes[i].device && !unused) unused = &p->lanes[i];
  }
  if (unused) unused->device = device, unused->owner = owner;
  return unused;
}

// drain waits until at most keep events are left, and returns the first error among those that ended.
static PJRT_Error *drain(plugin *p, queue *q, unsigned keep) {
  PJRT_Error *first = NULL;
  pthread_mutex_lock(&q->waiting);
  for (;;) {
    pthread_mutex_lock(&p->mu);
    PJRT_Event *next = q->tail - q->head > keep ? q->events[q->head++ % RING] : NULL;
    pthread_mutex_unlock(&p->mu);
    if (!next) break;
    first = seam_keep_first(p->real, first, wait_and_destroy(p->real, next));
  }
  pthread_mutex_unlock(&q->waiting);
  return first;
}

static PJRT_Error *drain_lane(plugin *p, lane *l) {
  PJRT_Error *first = drain(p, &l->runs, 0);
  return seam_keep_first(p->real, first, drain(p, &l->copies, 0));
}

// offer queues an event, unless other threads have filled the queue meanwhile.
static bool offer(plugin *p, queue *q, PJRT_Event *event) {
  pthread_mutex_lock(&p->mu);
  bool room = q->tail - q->head < RING;
  if (room) q->events[q->tail++ % RING] = event;
  pthread_mutex_unlock(&p->mu);
  return room;
}

// READY stands for an event that has happened.
static char ready_event;
#define READY ((PJRT_Event *)&ready_event)

static PJRT_Error *event_await(const PJRT_Api *real, PJRT_Event_Await_Args *a) {
  return a->event == READY ? NULL : real->PJRT_Event_Await(a);
}

static PJRT_Error *event_destroy(const PJRT_Api *real, PJRT_Event_Destroy_Args *a) {
  return a->event == READY ? NULL : real->PJRT_Event_Destroy(a);
}

static PJRT_Error *event_error(const PJRT_Api *real, PJRT_Event_Error_Args *a) {
  return a->event == READY ? NULL : real->PJRT_Event_Error(a);
}

static PJRT_Error *event_is_ready(const PJRT_Api *real, PJRT_Event_IsReady_Args *a) {
  if (a->event != READY) return real->PJRT_Event_IsReady(a);
  a->is_ready = true;
  return NULL;
}

static PJRT_Error *event_on_ready(const PJRT_Api *real, PJRT_Event_OnReady_Args *a) {
  if (a->event != READY) return real->PJRT_Event_OnReady(a);
  a->callback(NULL, a->user_arg);
  return NULL;
}

static PJRT_Error *client_create(plugin *p, PJRT_Client_Create_Args *a) {
  PJRT_Error *e = p->real->PJRT_Client_Create(a);
  if (e) return e;
  ARGS(PJRT_Client_AddressableDevices_Args, d);
  d.client = a->client;
  seam_drop(p->real, p->real->PJRT_Client_AddressableDevices(&d));
  backend *b = calloc(1, sizeof *b);
  b->client = a->client;
  b->devices = d.addressable_devices;
  b->ndevices = d.num_addressable_devices;
  pthread_mutex_lock(&p->mu);
  b->number = ++p->newest;
  b->depth = p->depth;
  p->backends = realloc(p->backends, (p->nbackends + 1) * sizeof *p->backends);
  p->backends[p->nbackends++] = b;
  pthread_mutex_unlock(&p->mu);
  return NULL;
}

// client_destroy takes the backend out of the list first, so that nobody makes a lane for it any more.
static PJRT_Error *client_destroy(plugin *p, PJRT_Client_Destroy_Args *a) {
  backend *b = NULL;
  pthread_rwlock_wrlock(&p->asking);
  pthread_mutex_lock(&p->mu);
  for (int i = 0; i < p->nbackends; i++) if (p->backends[i]->client == a->client) {
    b = p->backends[i];
    memmove(p->backends + i, p->backends + i + 1, (--p->nbackends - i) * sizeof *p->backends);
    break;
  }
  pthread_mutex_unlock(&p->mu);
  pthread_rwlock_unlock(&p->asking);
  for (int i = 0; b && i < DEVICES; i++) {
    lane *l = &p->lanes[i];
    pthread_mutex_lock(&p->mu);
    bool its = l->device && l->owner == b;
    pthread_mutex_unlock(&p->mu);
    if (!its) continue;
    seam_drop(p->real, drain_lane(p, l));
    pthread_mutex_lock(&p->mu);
    l->device = NULL;
    l->owner = NULL;
    pthread_mutex_unlock(&p->mu);
  }
  free(b);
  return p->real->PJRT_Client_Destroy(a);
}

static PJRT_Error *executable_destroy(plugin *p, PJRT_LoadedExecutable_Destroy_Args *a) {
  pthread_mutex_lock(&p->mu);
  for (int i = 0; i < p->ncopiers; i++) if (p->copiers[i].exec == a->executable) {
    p->copiers[i] = p->copiers[--p->ncopiers];
    break;
  }
  pthread_mutex_unlock(&p->mu);
  seam_set_fresh(p, a->executable, false);
  return p->real->PJRT_LoadedExecutable_Destroy(a);
}

// memory_of finds a device's memory of that kind.
static PJRT_Error *memory_of(const PJRT_Api *real, PJRT_Device *device, const char *kind, PJRT_Memory **out) {
  char text[512] = "";
  size_t n = snprintf(text, sizeof text, "the device has no memory of kind \"%s\"; it has", kind);
  ARGS(PJRT_Device_AddressableMemories_Args, m);
  m.device = device;
  PJRT_Error *e = real->PJRT_Device_AddressableMemories(&m);
  if (e) return e;
  for (size_t i = 0; i < m.num_memories; i++) {
    ARGS(PJRT_Memory_Kind_Args, k);
    k.memory = m.memories[i];
    if ((e = real->PJRT_Memory_Kind(&k))) return e;
    *out = m.memories[i];
    if (k.kind_size == strlen(kind) && !memcmp(kind, k.kind, k.kind_size)) return NULL;
    if (n < sizeof text) n += snprintf(text + n, sizeof text - n, " %.*s", (int)k.kind_size, k.kind);
  }
  return seam_new_error(PJRT_Error_Code_NOT_FOUND, text, "");
}

// copy_all runs an identity program as copies of its inputs to another kind of memory; all or none. When nobody waits
// for executions, nobody waits for copies either: whoever uses a copy does.
static PJRT_Error *copy_all(plugin *p, PJRT_LoadedExecutable_Execute_Args *a, const char *kind, lane *l, unsigned depth) {
  PJRT_Memory *to = NULL;
  PJRT_Error *e = a->execute_device && a->num_devices == 1 && l ? memory_of(p->real, a->execute_device, kind, &to)
      : seam_new_error(PJRT_Error_Code_UNIMPLEMENTED, "programs that copy to another memory run on one device, and on no more than the first 32", "");
  size_t done = 0;
  while (!e && done < a->num_args) {
    ARGS(PJRT_Buffer_CopyToMemory_Args, c);
    c.buffer = a->argument_lists[0][done];
    c.dst_memory = to;
    pthread_rwlock_rdlock(&p->launching);
    e = p->real->PJRT_Buffer_CopyToMemory(&c);
    pthread_rwlock_unlock(&p->launching);
    if (e) break;
    a->output_lists[0][done++] = c.dst_buffer;
    ARGS(PJRT_Buffer_ReadyEvent_Args, r);
    r.buffer = c.dst_buffer;
    if ((e = p->real->PJRT_Buffer_ReadyEvent(&r))) break;
    if (!depth || !offer(p, &l->copies, r.event)) e = wait_and_destroy(p->real, r.event);
    else if ((e = drain(p, &l->copies, RING / 2))) e = seam_late(p->real, e);
  }
  while (e && done) {
    ARGS(PJRT_Buffer_Destroy_Args, d);
    d.buffer = a->output_lists[0][--done];
    seam_drop(p->real, p->real->PJRT_Buffer_Destroy(&d));
  }
  if (!e && a->device_complete_events) a->device_complete_events[0] = READY;
  return e;
}

// destroy_results frees what an execution that failed has returned: its caller gets the error alone.
static void destroy_results(const PJRT_Api *real, PJRT_LoadedExecutable_Execute_Args *a) {
  ARGS(PJRT_LoadedExecutable_GetExecutable_Args, g);
  g.loaded_executable = a->executable;
  ARGS(PJRT_Executable_NumOutputs_Args, n);
  PJRT_Error *e = real->PJRT_LoadedExecutable_GetExecutable(&g);
  if (e) { seam_drop(real, e); return; }
  n.executable = g.executable;
  seam_drop(real, real->PJRT_Executable_NumOutputs(&n));
  ARGS(PJRT_Executable_Destroy_Args, x);
  x.executable = g.executable;
  seam_drop(real, real->PJRT_Executable_Destroy(&x));
  for (size_t i = 0; i < n.num_outputs; i++) {
    ARGS(PJRT_Buffer_Destroy_Args, d);
    d.buffer = a->output_lists[0][i];
    seam_drop(real, real->PJRT_Buffer_Destroy(&d));
  }
}

// execute_and_wait is what go-xla would do, which leaves the results of a failed execution behind.
static PJRT_Error *execute_and_wait(plugin *p, PJRT_LoadedExecutable_Execute_Args *a) {
  PJRT_Error *e = seam_launch(p, a);
  if (e || a->num_devices != 1 || !a->device_complete_events) return e;
  if ((e = wait_and_destroy(p->real, a->device_complete_events[0]))) destroy_results(p->real, a);
  else a->device_complete_events[0] = READY;
  return e;
}

static PJRT_Error *execute(plugin *p, PJRT_LoadedExecutable_Execute_Args *a) {
  char kind[KIND] = "";
  pthread_mutex_lock(&p->mu);
  for (int i = 0; i < p->ncopiers && !*kind; i++) if (p->copiers[i].exec == a->executable) memcpy(kind, p->copiers[i].kind, KIND);
  backend *owner = a->execute_device ? owner_of(p, a->execute_device) : NULL;
  unsigned depth = owner ? owner->depth : 0;
  lane *l = owner && (depth || *kind) ? lane_of(p, owner, a->execute_device) : NULL;
  pthread_mutex_unlock(&p->mu);
  if (*kind) return copy_all(p, a, kind, l, depth);
  if (!depth || !l || a->num_devices != 1 || !a->device_complete_events) return execute_and_wait(p, a);
  PJRT_Error *e = drain(p, &l->runs, depth - 1);
  if (e) return seam_late(p->real, e);
  if ((e = seam_launch(p, a))) return e;
  // Where other threads have filled the queue, the caller gets the true event and waits for it.
  if (offer(p, &l->runs, a->device_complete_events[0])) a->device_complete_events[0] = READY;
  return NULL;
}

#define HOOK(n, entry, hook) \
  static PJRT_Error *hook##_##n(entry##_Args *a) { return hook(&plugins[n], a); }
#define REAL(n, entry, hook) \
  static PJRT_Error *hook##_##n(entry##_Args *a) { return hook(plugins[n].real, a); }
// SHARED is an entry of the plugin's own that may launch something; see launching.
#define SHARED(n, entry, hook)                        \
  static PJRT_Error *hook##_##n(entry##_Args *a) {    \
    plugin *p = &plugins[n];                          \
    pthread_rwlock_rdlock(&p->launching);             \
    PJRT_Error *e = p->real->entry(a);                \
    pthread_rwlock_unlock(&p->launching);             \
    return e;                                         \
  }
#define HOOKS(n)                                                                                              \
  REAL(n, PJRT_Error_GetCode, seam_error_code)                                                                     \
  REAL(n, PJRT_Event_Await, event_await)                                                                      \
  REAL(n, PJRT_Event_Destroy, event_destroy)                                                                  \
  REAL(n, PJRT_Event_Error, event_error)                                                                      \
  REAL(n, PJRT_Event_IsReady, event_is_ready)                                                                 \
  REAL(n, PJRT_Event_OnReady, event_on_ready)                                                                 \
  HOOK(n, PJRT_Client_Create, client_create)                                                                  \
  HOOK(n, PJRT_Client_Destroy, client_destroy)                                                                \
  HOOK(n, PJRT_LoadedExecutable_Execute, execute)                                                             \
  HOOK(n, PJRT_LoadedExecutable_Destroy, executable_destroy)                                                  \
  SHARED(n, PJRT_Client_BufferFromHostBuffer, upload)                                                         \
  SHARED(n, PJRT_Client_CreateViewOfDeviceBuffer, view)                                                       \
  SHARED(n, PJRT_Buffer_CopyToDevice, copy)                                                                   \
  SHARED(n, PJRT_Buffer_ToHostBuffer, download)                                                               \
  SHARED(n, PJRT_Buffer_Destroy, buffer_destroy)                                                              \
  static void error_destroy_##n(PJRT_Error_Destroy_Args *a) { seam_error_destroy(plugins[n].real, a); }            \
  static void error_message_##n(PJRT_Error_Message_Args *a) { seam_error_message(plugins[n].real, a); }            \
  static PJRT_Error *compile_##n(PJRT_Client_Compile_Args *a) { return seam_compile(&plugins[n], n, a); }          \
  static void hook_##n(PJRT_Api *t) {                                                                         \
    t->PJRT_Error_Destroy = error_destroy_##n;                                                                \
    t->PJRT_Error_Message = error_message_##n;                                                                \
    t->PJRT_Error_GetCode = seam_error_code_##n;                                                                   \
    t->PJRT_Event_Await = event_await_##n;                                                                    \
    t->PJRT_Event_Destroy = event_destroy_##n;                                                                \
    t->PJRT_Event_Error = event_error_##n;                                                                    \
    t->PJRT_Event_IsReady = event_is_ready_##n;                                                               \
    t->PJRT_Event_OnReady = event_on_ready_##n;                                                               \
    t->PJRT_Client_Create = client_create_##n;                                                                \
    t->PJRT_Client_Destroy = client_destroy_##n;                                                              \
    t->PJRT_Client_Compile = compile_##n;                                                                     \
    t->PJRT_LoadedExecutable_Execute = execute_##n;                                                           \
    t->PJRT_LoadedExecutable_Destroy = executable_destroy_##n;                                                \
    t->PJRT_Client_BufferFromHostBuffer = upload_##n;                                                         \
    t->PJRT_Client_CreateViewOfDeviceBuffer = view_##n;                                                       \
    t->PJRT_Buffer_CopyToDevice = copy_##n;                                                                   \
    t->PJRT_Buffer_ToHostBuffer = download_##n;                                                               \
    t->PJRT_Buffer_Destroy = buffer_destroy_##n;                                                              \
  }
HOOKS(0) HOOKS(1) HOOKS(2) HOOKS(3)
static void (*const hooks[SLOTS])(PJRT_Api *) = {hook_0, hook_1, hook_2, hook_3};

// attach makes the table that go-xla gets.
static char *attach(const PJRT_Api *real, int *slot, void **table) {
  char text[200];
  size_t least = offsetof(PJRT_Api, PJRT_Client_CreateViewOfDeviceBuffer) + sizeof(void *);  // the last entry that hooks replace
  if (real->pjrt_api_version.major_version != PJRT_API_MAJOR || real->struct_size < least || !HAS(real, PJRT_Buffer_CopyToMemory)) {
    snprintf(text, sizeof text, "the plugin's PJRT C API is %d.%d; this build speaks %d.%d and newer minor versions, and older ones with PJRT_Client_CreateViewOfDeviceBuffer",
             real->pjrt_api_version.major_version, real->pjrt_api_version.minor_version, PJRT_API_MAJOR, PJRT_API_MINOR);
    return strdup(text);
  }
  pthread_mutex_lock(&opening);
  int n = nplugins < SLOTS ? nplugins++ : -1;
  pthread_mutex_unlock(&opening);
  snprintf(text, sizeof text, "%d PJRT plugins are open in this process, and there is room for no more", SLOTS);
  if (n < 0) return strdup(text);
  plugin *p = &plugins[n];
  p->real = real;
  pthread_mutex_init(&p->mu, NULL);
  pthread_rwlock_init(&p->asking, NULL);
  pthread_rwlockattr_t fair;
  pthread_rwlockattr_init(&fair);
#ifdef __GLIBC__
  pthread_rwlockattr_setkind_np(&fair, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP); // some thread always launches something
#endif
  pthread_rwlock_init(&p->launching, &fair);
  for (int i = 0; i < DEVICES; i++) {
    pthread_mutex_init(&p->lanes[i].runs.waiting, NULL);
    pthread_mutex_init(&p->lanes[i].copies.waiting, NULL);
  }
  PJRT_Api *t = malloc(real->struct_size);
  memcpy(t, real, real->struct_size);
  hooks[n](t);
  p->table = t;
  *slot = n;
  *table = t;
  return NULL;
}

char *seam_open(const char *path, int *slot, void **table) {
  void *handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
  if (!handle) return strdup(dlerror());
  const PJRT_Api *(*get)(void) = (const PJRT_Api *(*)(void))dlsym(handle, "GetPjrtApi");
  const PJRT_Api *real = get ? get() : NULL;
  char *e = real ? attach(real, slot, table) : strdup("the library has no GetPjrtApi, or that returned nothing: it is no PJRT plugin");
  if (!real) dlclose(handle);  // what has run plugin code stays loaded: it may have started threads
  return e;
}

// next_lane iterates over the lanes of the backend of that number, of all if it is 0; i starts at 0, and NULL ends it.
static lane *next_lane(plugin *p, int64_t number, int *i) {
  lane *found = NULL;
  pthread_mutex_lock(&p->mu);
  for (; !found && *i < DEVICES; ++*i) {
    lane *l = &p->lanes[*i];
    if (l->device && (!number || l->owner->number == number)) found = l;
  }
  pthread_mutex_unlock(&p->mu);
  return found;
}

char *seam_sync(int slot, int64_t number) {
  plugin *p = &plugins[slot];
  PJRT_Error *first = NULL;
  int i = 0;
  for (lane *l; (l = next_lane(p, number, &i));) first = seam_keep_first(p->real, first, drain_lane(p, l));
  return seam_told(p->real, first);
}

char *seam_limit(int slot, int64_t number, int runs, int copies) {
  plugin *p = &plugins[slot];
  PJRT_Error *first = NULL;
  int i = 0;
  for (lane *l; (l = next_lane(p, number, &i));) {
    first = seam_keep_first(p->real, first, drain(p, &l->runs, runs));
    first = seam_keep_first(p->real, first, drain(p, &l->copies, copies));
  }
  return seam_told(p->real, first);
}

char *seam_set_depth(int slot, int64_t number, int depth) {
  plugin *p = &plugins[slot];
  if (depth < 0) depth = 0;
  if (depth > RING) depth = RING;
  pthread_mutex_lock(&p->mu);
  if (!number) p->depth = depth;
  for (int i = 0; i < p->nbackends; i++) if (!number || p->backends[i]->number == number) p->backends[i]->depth = depth;
  pthread_mutex_unlock(&p->mu);
  return seam_sync(slot, number);
}

int seam_depth(int slot, int64_t number) {
  plugin *p = &plugins[slot];
  pthread_mutex_lock(&p->mu);
  int depth = number ? -1 : (int)p->depth;
  for (int i = 0; i < p->nbackends; i++) if (p->backends[i]->number == number) depth = p->backends[i]->depth;
  pthread_mutex_unlock(&p->mu);
  return depth;
}

int seam_pending(int slot, int64_t number) {
  plugin *p = &plugins[slot];
  int n = 0, i = 0;
  for (lane *l; (l = next_lane(p, number, &i));) {
    pthread_mutex_lock(&p->mu);
    n += l->runs.tail - l->runs.head + l->copies.tail - l->copies.head;
    pthread_mutex_unlock(&p->mu);
  }
  return n;
}

int64_t seam_newest(int slot) {
  plugin *p = &plugins[slot];
  pthread_mutex_lock(&p->mu);
  int64_t newest = p->newest;
  pthread_mutex_unlock(&p->mu);
  return newest;
}

// device_of finds a device of a backend, both by number. Call with asking held for as long as the device is used.
static char *device_of(plugin *p, int64_t number, int device, PJRT_Device **out) {
  char text[100] = "the backend is closed";
  pthread_mutex_lock(&p->mu);
  for (int i = 0; i < p->nbackends; i++) if (p->backends[i]->number == number) {
    backend *b = p->backends[i];
    if (device >= 0 && (size_t)device < b->ndevices) *out = b->devices[device];
    snprintf(text, sizeof text, "there is no such device: the backend has %zu", b->ndevices);
  }
  pthread_mutex_unlock(&p->mu);
  return *out ? NULL : strdup(text);
}

static char *memory_stats(plugin *p, int64_t number, int device, seam_memory *out) {
  ARGS(PJRT_Device_MemoryStats_Args, s);
  char *missing = device_of(p, number, device, &s.device);
  if (missing) return missing;
  PJRT_Error *e = p->real->PJRT_Device_MemoryStats(&s);
  if (e) return seam_message(p->real, e);
  out->in_use = s.bytes_in_use;
  out->peak = s.peak_bytes_in_use_is_set ? s.peak_bytes_in_use : -1;
  out->limit = s.bytes_limit_is_set ? s.bytes_limit : -1;
  out->pool = s.pool_bytes_is_set ? s.pool_bytes : -1;
  return NULL;
}

char *seam_memory_stats(int slot, int64_t number, int device, seam_memory *out) {
  plugin *p = &plugins[slot];
  pthread_rwlock_rdlock(&p->asking);
  char *error = memory_stats(p, number, device, out);
  pthread_rwlock_unlock(&p->asking);
  return error;
}

static char *attribute(plugin *p, int64_t number, int device, const char *name, char *value, size_t size) {
  ARGS(PJRT_Device_GetDescription_Args, g);
  char *missing = device_of(p, number, device, &g.device);
  if (missing) return missing;
  PJRT_Error *e = p->real->PJRT_Device_GetDescription(&g);
  if (e) return seam_message(p->real, e);
  ARGS(PJRT_DeviceDescription_Attributes_Args, a);
  a.device_description = g.device_description;
  if (HAS(p->real, PJRT_DeviceDescription_Attributes) && (e = p->real->PJRT_DeviceDescription_Attributes(&a))) return seam_message(p->real, e);
  *value = 0;
  for (size_t i = 0; i < a.num_attributes; i++) {
    const PJRT_NamedValue *v = &a.attributes[i];
    if (v->type == PJRT_NamedValue_kString && v->name_size == strlen(name) && !memcmp(v->name, name, v->name_size)) snprintf(value, size, "%.*s", (int)v->value_size, v->string_value);
  }
  return NULL;
}

char *seam_attribute(int slot, int64_t number, int device, const char *name, char *value, size_t size) {
  plugin *p = &plugins[slot];
  pthread_rwlock_rdlock(&p->asking);
  char *error = attribute(p, number, device, name, value, size);
  pthread_rwlock_unlock(&p->asking);
  return error;
}

char *seam_profile_slot(int slot, void **handle) {
  char *late = seam_sync(slot, 0);
  return late ? late : seam_profile_start(plugins[slot].real, handle);
}

char *seam_profiled(int slot, void *handle, uint8_t **data, size_t *size) {
  char *late = seam_sync(slot, 0), *error = seam_profile_stop(plugins[slot].real, handle, data, size);
  if (late && error) free(error);
  return late ? late : error;
}

char *seam_watch_slot(int slot) {
  char *late = seam_sync(slot, 0);
  return late ? late : seam_watch(&plugins[slot], slot);
}

// seam_unwatch_slot returns the error of an execution that has been waited for by nobody else.
char *seam_unwatch_slot(int slot) {
  char *late = seam_sync(slot, 0);
  seam_unwatch(&plugins[slot], slot);
  return late;
}
