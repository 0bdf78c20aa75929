// Tests of the C half against a PJRT plugin that is all counters: how events, errors and buffers are owned, and what
// happens when several threads execute. Compiled and run by TestHooksUnderSanitizers.
#include "../errors.c"
#include "../compile.c"
#include "../watch.c"
#include "../profile.c"
#include "../launch.c"
#include "../shim.c"

#include <assert.h>
#include <stdatomic.h>
#include <unistd.h>

#undef assert
#define assert(x) do { if (!(x)) { fprintf(stderr, "line %d: %s is false\n", __LINE__, #x); abort(); } } while (0)

#include "fake_plugin.h"

// ---- What Go does: the test says what.
static const char *go_error, *go_kind, *go_cached, *go_key;
static int64_t go_number;
static int cached_events[4];
static char last_hardware[64];
void loris_seam_compile(int slot, char *code, size_t size, char *options, size_t options_size, char *hardware, seam_program *o) {
  assert(slot == 0 && size == 4 && !memcmp(code, "text", 4) && options_size == 2 && !memcmp(options, "op", 2));
  snprintf(last_hardware, sizeof last_hardware, "%s", hardware);
  if (go_error) { o->error = strdup(go_error); return; }
  o->code = strdup("better text"); o->code_size = 11;
  o->options = strdup("op+"); o->options_size = 3;
  if (go_kind) o->memory_kind = strdup(go_kind);
  if (go_key) o->cache_key = strdup(go_key);
  o->number = go_number;
  if (go_cached) { o->cached = strdup(go_cached); o->cached_size = strlen(go_cached); }
}
static int64_t measured;
void loris_seam_measured(int slot, int64_t number, seam_footprint *f) {
  assert(slot == 0 && number == go_number && f->arguments == 100 && f->results == 20 && f->reused == 8 && f->temporary == 3);
  measured++;
}
void loris_seam_cached(int slot, char *key, int event, char *data, size_t size) {
  assert(slot == 0 && !strcmp(key, go_key) && (!data) == (!size));
  if (event == SEAM_SERIALIZED) assert(size == 12 && !memcmp(data, "machine code", 12));
  cached_events[event]++;
}

// ---- The tests, which call the table as go-xla does.
static PJRT_Api *api;
static PJRT_Client *new_client(void) {
  ARGS(PJRT_Client_Create_Args, a);
  assert(!api->PJRT_Client_Create(&a));
  return a.client;
}
static void destroy_client(PJRT_Client *c) {
  ARGS(PJRT_Client_Destroy_Args, a);
  a.client = c;
  assert(!api->PJRT_Client_Destroy(&a));
}
static PJRT_LoadedExecutable *compile_text(PJRT_Client *c, PJRT_Error **e) {
  ARGS(PJRT_Program, p);
  p.code = "text"; p.code_size = 4; p.format = "mlir"; p.format_size = 4;
  ARGS(PJRT_Client_Compile_Args, a);
  a.client = c; a.program = &p; a.compile_options = "op"; a.compile_options_size = 2;
  *e = api->PJRT_Client_Compile(&a);
  assert(a.program == &p && a.compile_options_size == 2);
  return a.executable;
}
static void destroy_loaded(PJRT_LoadedExecutable *l) {
  ARGS(PJRT_LoadedExecutable_Destroy_Args, a);
  a.executable = l;
  assert(!api->PJRT_LoadedExecutable_Destroy(&a));
}
// text_of takes an error as go-xla's toError does.
static const char *text_of(PJRT_Error *e, PJRT_Error_Code *code) {
  static _Thread_local char text[4096];
  assert(e);
  ARGS(PJRT_Error_Message_Args, m);
  m.error = e;
  api->PJRT_Error_Message(&m);
  snprintf(text, sizeof text, "%.*s", (int)m.message_size, m.message);
  ARGS(PJRT_Error_GetCode_Args, c);
  c.error = e;
  assert(!api->PJRT_Error_GetCode(&c));
  if (code) *code = c.code;
  ARGS(PJRT_Error_Destroy_Args, d);
  d.error = e;
  api->PJRT_Error_Destroy(&d);
  return text;
}
// run executes and waits as go-xla's ExecuteAndWait does; was_ready tells whether there was nothing to wait for.
static PJRT_Error *run_one(PJRT_LoadedExecutable *l, PJRT_Device *device, int *was_ready) {
  PJRT_Event *event = NULL;
  ARGS(PJRT_LoadedExecutable_Execute_Args, a);
  a.executable = l; a.num_devices = 1; a.execute_device = device; a.device_complete_events = &event;
  PJRT_Error *e = api->PJRT_LoadedExecutable_Execute(&a);
  if (e) return e;
  if (was_ready) *was_ready = event == READY;
  ARGS(PJRT_Event_Await_Args, w);
  w.event = event;
  e = api->PJRT_Event_Await(&w);
  ARGS(PJRT_Event_Destroy_Args, d);
  d.event = event;
  assert(!api->PJRT_Event_Destroy(&d));
  return e;
}
static void check_sync(const char *want) {
  char *e = seam_sync(0, 0);
  if (e ? !want || strcmp(e, want) : !!want) { fprintf(stderr, "sync: %s, want %s\n", e ? e : "nothing", want ? want : "nothing"); abort(); }
  free(e);
}
static void set_depth(int n) { assert(!seam_set_depth(0, 0, n)); }

static PJRT_Client *client;
static PJRT_LoadedExecutable *exec;
static void *run_many(void *n) {
  for (long i = 0; i < (long)n; i++) assert(!run_one(exec, client->devices[i % 2], NULL));
  return NULL;
}
static void *device_loop(void *stop) {
  while (!*(atomic_int *)stop) {
    pthread_mutex_lock(&device_mu);
    int n = started;
    pthread_mutex_unlock(&device_mu);
    end_until(n);
    usleep(50);
  }
  return NULL;
}
static void several_threads(int depth) {
  set_depth(depth);
  atomic_int stop = 0;
  pthread_t device, threads[8];
  pthread_create(&device, NULL, device_loop, &stop);
  int before = executions;
  for (int i = 0; i < 8; i++) pthread_create(&threads[i], NULL, run_many, (void *)300L);
  for (int i = 0; i < 8; i++) {
    check_sync(NULL);
    assert(seam_pending(0, 0) <= 2 * RING);
    pthread_join(threads[i], NULL);
  }
  assert(executions - before == 8 * 300);
  assert(seam_pending(0, 0) <= 2 * depth + 16 && live_events == seam_pending(0, 0));
  check_sync(NULL);
  assert(live_events == 0 && seam_pending(0, 0) == 0);
  stop = 1;
  pthread_join(device, NULL);
}

static void *run_ready(void *ready) { assert(!run_one(exec, client->devices[0], ready)); return NULL; }
// More threads than the ring has room for execute at once: those that find no room wait for their own event.
static void full_ring(void) {
  set_depth(RING);
  for (int i = 0; i < RING - 1; i++) { int ready; assert(!run_one(exec, client->devices[0], &ready) && ready); }
  enum { N = 16 };
  pthread_t threads[N];
  int ready[N], sum = 0;
  pthread_mutex_lock(&device_mu);
  at_gate = 0;
  gate = N;
  pthread_mutex_unlock(&device_mu);
  for (int i = 0; i < N; i++) pthread_create(&threads[i], NULL, run_ready, &ready[i]);
  for (int begun = 0; begun < N; usleep(1000)) { pthread_mutex_lock(&device_mu); begun = at_gate; pthread_mutex_unlock(&device_mu); }
  end_until(1 << 30);  // whatever comes
  for (int i = 0; i < N; i++) { pthread_join(threads[i], NULL); sum += ready[i]; }
  pthread_mutex_lock(&device_mu);
  gate = 0;
  ended = started;
  pthread_mutex_unlock(&device_mu);
  assert(sum == 1 && seam_pending(0, 0) == RING);
  check_sync(NULL);
  assert(live_events == 0);
}

static void late_errors(void) {
  set_depth(4);
  fails_at = started + 1;
  for (int i = 0; i < 4; i++) assert(!run_one(exec, client->devices[0], NULL));
  end_until(started);
  int before = executions;
  PJRT_Error_Code code;
  assert(!run_one(exec, client->devices[1], NULL));  // the other device knows nothing of it
  assert(!run_one(exec, client->devices[0], NULL));  // waits for the first one
  assert(!strcmp(text_of(run_one(exec, client->devices[0], NULL), &code), "an earlier asynchronous execution failed: out of memory"));
  assert(code == PJRT_Error_Code_RESOURCE_EXHAUSTED && executions == before + 2);
  end_until(started);
  check_sync(NULL);
  fails_at = started;
  assert(!run_one(exec, client->devices[0], NULL));
  end_until(started);
  check_sync("RESOURCE_EXHAUSTED: out of memory");
  check_sync(NULL);
  fails_at = -1;
  set_depth(0);
  fails_at = started;
  end_until(started + 1);
  assert(!strcmp(text_of(run_one(exec, client->devices[0], NULL), NULL), "out of memory"));
  fails_at = -1;
  assert(live_errors == 0 && live_events == 0);
}

// run_results executes a program over in, and returns its error or its two results.
static PJRT_Error *run_results(PJRT_Buffer *in, PJRT_Buffer **out) {
  PJRT_Buffer *list[] = {in}, *const *lists[] = {list}, **outs[] = {out};
  PJRT_Event *event = NULL;
  ARGS(PJRT_LoadedExecutable_Execute_Args, a);
  a.executable = exec; a.num_devices = 1; a.num_args = 1; a.execute_device = client->devices[0];
  a.argument_lists = lists; a.output_lists = outs; a.device_complete_events = &event;
  results = 2;
  PJRT_Error *e = api->PJRT_LoadedExecutable_Execute(&a);
  results = 0;
  assert(e || event == READY);
  return e;
}
static void destroy_buffer(PJRT_Buffer *b) {
  ARGS(PJRT_Buffer_Destroy_Args, d);
  d.buffer = b;
  assert(!api->PJRT_Buffer_Destroy(&d));
}
static PJRT_Error *read_buffer(PJRT_Buffer *b) {
  char value;
  ARGS(PJRT_Buffer_ToHostBuffer_Args, r);
  r.src = b; r.dst = &value; r.dst_size = 1;
  PJRT_Error *e = api->PJRT_Buffer_ToHostBuffer(&r);
  if (e) return e;
  pthread_mutex_lock(&device_mu);
  int n = started;
  pthread_mutex_unlock(&device_mu);
  end_until(n);
  ARGS(PJRT_Event_Await_Args, w);
  w.event = r.event;
  e = api->PJRT_Event_Await(&w);
  ARGS(PJRT_Event_Destroy_Args, d);
  d.event = r.event;
  assert(!api->PJRT_Event_Destroy(&d));
  return e;
}

// What fails while it is waited for leaves no results behind.
static void failed_results(void) {
  set_depth(0);
  PJRT_Buffer in = {0}, *out[2];
  fails_at = started;
  end_until(started + 2);
  assert(!strcmp(text_of(run_results(&in, out), NULL), "out of memory") && live_buffers == 0);
  fails_at = -1;
  assert(!run_results(&in, out) && live_buffers == 2 && live_events == 0 && live_executables == 0);
  destroy_buffer(out[0]);
  destroy_buffer(out[1]);
}

// A late fault runs the program, and is in its event, its results and what is made of them; an early one runs nothing.
static void watching(void) {
  PJRT_Buffer in = {0}, *a[2], *b[2];
  PJRT_Error_Code code;
  const PJRT_Api before = *api;
  set_depth(8);
  assert(!seam_watch_slot(0));
  char *e = seam_watch_slot(0);
  assert(e && !strcmp(e, "the plugin is being watched"));
  free(e);
  seam_fault(0, "other", 0, 1, PJRT_Error_Code_INTERNAL, "never");
  seam_fault(0, "st", 1, 1, PJRT_Error_Code_RESOURCE_EXHAUSTED, "late fault");
  int ran = executions;
  assert(!run_results(&in, a) && !seam_fired(0) && seam_live_buffers(0) == 2);
  destroy_buffer(a[0]);
  destroy_buffer(a[1]);
  assert(!run_results(&in, a) && seam_fired(0) == 1 && !run_results(a[1], b) && executions == ran + 3 && seam_live_buffers(0) == 4);
  assert(!strcmp(text_of(read_buffer(b[0]), &code), "late fault") && code == PJRT_Error_Code_RESOURCE_EXHAUSTED && !read_buffer(&in));
  end_until(started);
  check_sync("RESOURCE_EXHAUSTED: late fault");
  check_sync(NULL);
  seam_fault(0, "step", 0, 0, PJRT_Error_Code_INTERNAL, "early fault");
  PJRT_Buffer *none[2];
  assert(!strcmp(text_of(run_results(&in, none), &code), "early fault") && code == PJRT_Error_Code_INTERNAL && executions == ran + 3);
  for (int i = 0; i < 2; i++) { destroy_buffer(a[i]); destroy_buffer(b[i]); }
  assert(seam_live_buffers(0) == 0 && live_buffers == 0 && watches[0].nfailed == 0);
  e = seam_unwatch_slot(0);
  assert(!e && !memcmp(&before, api, sizeof before) && plugins[0].real == &fake && live_executables == 0);
}

static atomic_int synced;
static void *sync_thread(void *unused) { (void)unused; check_sync(NULL); synced = 1; return NULL; }
// An event that another thread has taken out of the queue and waits for is still waited for by Sync.
static void sync_waits_for_all(void) {
  set_depth(1);
  assert(!run_one(exec, client->devices[0], NULL));
  pthread_t executing, syncing;
  int ready;
  pthread_create(&executing, NULL, run_ready, &ready);
  while (seam_pending(0, 0)) usleep(100);  // taken out
  synced = 0;
  pthread_create(&syncing, NULL, sync_thread, NULL);
  usleep(50000);
  assert(!synced);
  end_until(started + 1);
  pthread_join(executing, NULL);
  pthread_join(syncing, NULL);
  check_sync(NULL);
  assert(live_events == 0);
}

static void *ask_loop(void *stop) {
  while (!*(atomic_int *)stop) {
    seam_memory m;
    char text[8];
    free(seam_memory_stats(0, seam_newest(0), 1, &m));
    free(seam_attribute(0, seam_newest(0), 1, "compute_capability", text, sizeof text));
  }
  return NULL;
}

static void clients_apart(void) {
  set_depth(8);
  int64_t its = seam_newest(0);
  PJRT_Client *other = new_client();
  int64_t others = seam_newest(0);
  assert(others > its && seam_depth(0, others) == 8);
  assert(!run_one(exec, client->devices[0], NULL) && !run_one(exec, other->devices[0], NULL) && !run_one(exec, other->devices[1], NULL));
  assert(seam_pending(0, 0) == 3 && seam_pending(0, its) == 1 && seam_pending(0, others) == 2);
  end_until(started);
  assert(!seam_sync(0, others) && seam_pending(0, others) == 0 && seam_pending(0, its) == 1);
  assert(!seam_set_depth(0, others, 0) && seam_depth(0, others) == 0 && seam_depth(0, its) == 8 && seam_pending(0, its) == 1);
  assert(!seam_set_depth(0, others, 2) && !run_one(exec, other->devices[0], NULL) && !run_one(exec, other->devices[0], NULL));
  end_until(started);
  assert(!seam_limit(0, its, 0, 0) && !seam_pending(0, its) && !seam_limit(0, others, 1, 0) && seam_pending(0, others) == 1);
  assert(!run_one(exec, client->devices[0], NULL));
  end_until(started);
  destroy_client(other);
  assert(seam_pending(0, 0) == 1 && seam_pending(0, others) == 0 && seam_depth(0, others) < 0 && live_events == 1);
  seam_memory m;
  assert(!seam_memory_stats(0, its, 1, &m) && m.in_use == 7 && m.peak == -1 && m.limit == 9 && m.pool == 8);
  char *e = seam_memory_stats(0, its, 2, &m);
  assert(e && !strcmp(e, "there is no such device: the backend has 2"));
  free(e);
  e = seam_memory_stats(0, others, 0, &m);
  assert(e && !strcmp(e, "the backend is closed"));
  free(e);
  char text[8];
  assert(!seam_attribute(0, its, 1, "compute_capability", text, sizeof text) && !strcmp(text, "9.0"));
  assert(!seam_attribute(0, its, 1, "core_count", text, sizeof text) && !*text && !seam_attribute(0, its, 0, "compute", text, sizeof text) && !*text);
  atomic_int stop = 0;
  pthread_t asking;
  pthread_create(&asking, NULL, ask_loop, &stop);
  for (int i = 0; i < 40; i++) {  // lanes are used again
    other = new_client();
    int ready;
    assert(!run_one(exec, other->devices[0], &ready) && ready);
    end_until(started);
    destroy_client(other);
  }
  stop = 1;
  pthread_join(asking, NULL);
  check_sync(NULL);
}

static void *launch_loop(void *stop) {
  while (!*(atomic_int *)stop) {
    assert(!run_one(exec, client->devices[1], NULL));
    ARGS(PJRT_Client_BufferFromHostBuffer_Args, u);
    u.client = client;
    assert(!api->PJRT_Client_BufferFromHostBuffer(&u));
    assert(!read_buffer(u.buffer));
    destroy_buffer(u.buffer);
  }
  return NULL;
}
// The first execution of a program has the plugin to itself, also behind one that failed; the next ones share it.
static void first_executions(void) {
  set_depth(8);
  PJRT_Error *e;
  PJRT_LoadedExecutable *l = compile_text(client, &e);
  assert(!seam_watch_slot(0));
  seam_fault(0, "step", 0, 0, PJRT_Error_Code_INTERNAL, "early fault");
  assert(!strcmp(text_of(run_one(l, client->devices[0], NULL), NULL), "early fault"));
  assert(!seam_unwatch_slot(0));
  slow = l;
  atomic_int stop = 0, device_stop = 0;
  pthread_t device, threads[4];
  pthread_create(&device, NULL, device_loop, &device_stop);
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, launch_loop, &stop);
  usleep(1000);
  assert(!run_one(l, client->devices[0], NULL) && meanwhile == 0);
  for (int tries = 0; tries < 100 && !meanwhile; tries++) assert(!run_one(l, client->devices[0], NULL));
  assert(meanwhile > 0);
  stop = 1;
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  check_sync(NULL);
  device_stop = 1;
  pthread_join(device, NULL);
  slow = NULL;
  destroy_loaded(l);
  destroy_loaded(compile_text(client, &e));  // never executed
  assert(plugins[0].nfresh == 0 && live_events == 0);
}

static PJRT_Error *run_copy(PJRT_LoadedExecutable *l, PJRT_Buffer **out) {
  static PJRT_Buffer in[3] = {{0}, {1}, {2}};
  PJRT_Buffer *list[] = {&in[0], &in[1], &in[2]}, *const *lists[] = {list}, **outs[] = {out};
  PJRT_Event *event = NULL;
  ARGS(PJRT_LoadedExecutable_Execute_Args, a);
  a.executable = l; a.num_devices = 1; a.num_args = 3; a.execute_device = client->devices[0];
  a.argument_lists = lists; a.output_lists = outs; a.device_complete_events = &event;
  PJRT_Error *e = api->PJRT_LoadedExecutable_Execute(&a);
  assert(e || event == READY);
  return e;
}
static void copies(void) {
  PJRT_Error *e;
  go_kind = "pinned_host";
  PJRT_LoadedExecutable *copier = compile_text(client, &e);
  go_kind = "moon";
  PJRT_LoadedExecutable *nowhere = compile_text(client, &e);
  go_kind = NULL;
  for (int depth = 0; depth < 3; depth++) {
    set_depth(depth);
    if (!depth) end_until(started + 3);
    int before = executions;
    PJRT_Buffer *out[3];
    assert(!run_copy(copier, out) && live_buffers == 3 && executions == before && seam_pending(0, 0) == (depth ? 3 : 0));
    end_until(started);
    check_sync(NULL);
    for (int i = 0; i < 3; i++) { free(out[i]); live_buffers--; }
    fail_copy_at = 2;
    end_until(started + 2);
    assert(!strcmp(text_of(run_copy(copier, out), NULL), "no room") && live_buffers == 0);
    fail_copy_at = -1;
    assert(!strcmp(text_of(run_copy(nowhere, out), NULL), "the device has no memory of kind \"moon\"; it has device pinned_host"));
  }
  check_sync(NULL);
  set_depth(1);
  PJRT_Buffer *out[3];
  for (int i = 0; i < 100; i++) {  // as many copies as nobody waits for
    assert(!run_copy(copier, out));
    for (int k = 0; k < 3; k++) { free(out[k]); live_buffers--; }
    end_until(started);
    assert(seam_pending(0, 0) <= RING / 2);
  }
  check_sync(NULL);
  destroy_loaded(copier);
  destroy_loaded(nowhere);
  assert(plugins[0].ncopiers == 0 && live_events == 0);
}

static void compiling(void) {
  PJRT_Error *e;
  PJRT_Error_Code code;
  go_error = "refused";
  assert(!compile_text(client, &e) && !strcmp(text_of(e, &code), "refused") && code == PJRT_Error_Code_INVALID_ARGUMENT);
  go_error = NULL;
  assert(!strcmp(last_hardware, "fake\nv1\nchip\nchip\n"));
  int before = compilations;
  go_key = "key";
  PJRT_LoadedExecutable *l = compile_text(client, &e);
  assert(!e && !strcmp(compiled_text, "better text") && !strcmp(compiled_options, "op+") && cached_events[SEAM_SERIALIZED] == 1);
  destroy_loaded(l);
  go_cached = "machine code";
  l = compile_text(client, &e);
  assert(!e && compilations == before + 1 && cached_events[SEAM_LOADED] == 1);
  destroy_loaded(l);
  for (fail_load = 1; fail_load <= 2; fail_load++) {
    l = compile_text(client, &e);
    assert(!e && compilations == before + 1 + fail_load && cached_events[SEAM_STALE] == fail_load && cached_events[SEAM_SERIALIZED] == 1 + fail_load);
    destroy_loaded(l);
  }
  go_cached = go_key = NULL;
  assert(measured == 0);
  go_number = 77;
  for (fail_load = 0; fail_load <= 2; fail_load += 2) {  // with statistics and without
    l = compile_text(client, &e);
    assert(!e && measured == 1);
    destroy_loaded(l);
  }
  go_number = fail_load = 0;
  assert(live_loaded == 1 && live_executables == 0 && live_errors == 0);
}

static void many_errors(void) {
  PJRT_Error *e[3 * ERRORS];
  go_error = "refused";
  for (int i = 0; i < 3 * ERRORS; i++) compile_text(client, &e[i]);
  for (int i = 0; i < 3 * ERRORS; i++) assert(!strcmp(text_of(e[i], NULL), "refused"));
  go_error = NULL;
}

static void *tables[SLOTS];  // nobody frees a table
static void versions(void) {
  int slot;
  void *table;
  static PJRT_Api old;
  old = fake;
  old.struct_size = offsetof(PJRT_Api, PJRT_Client_CreateViewOfDeviceBuffer);
  char *e = attach(&old, &slot, &table);
  assert(e && strstr(e, "PJRT C API is"));
  free(e);
  struct { PJRT_Api api; void *newer; } *big = calloc(1, sizeof *big);
  big->api = fake;
  big->api.struct_size = sizeof *big;
  big->newer = &slot;
  assert(!attach(&big->api, &slot, &table) && slot == 1);
  tables[slot] = table;
  assert(!memcmp((char *)table + sizeof(PJRT_Api), &big->newer, sizeof(void *)));
  for (int i = 2; i < SLOTS; i++) assert(!attach(&fake, &slot, &tables[i]));
  e = attach(&fake, &slot, &table);
  assert(e && strstr(e, "room for no more"));
  free(e);
  free(big);
  e = seam_open("/nowhere/plugin.so", &slot, &table);
  assert(e && strstr(e, "/nowhere/plugin.so"));
  free(e);
}

int main(void) {
  int slot;
  void *table;
  assert(!attach(&fake, &slot, &table) && slot == 0);
  api = table;
  client = new_client();
  PJRT_Error *e;
  exec = compile_text(client, &e);
  assert(!e);
  several_threads(0);
  several_threads(1);
  several_threads(16);
  several_threads(RING);
  full_ring();
  late_errors();
  failed_results();
  watching();
  sync_waits_for_all();
  clients_apart();
  first_executions();
  copies();
  compiling();
  many_errors();
  versions();
  destroy_loaded(exec);
  destroy_client(client);
  free(plugins[0].fresh);
  free(watches[0].under);
  free(watches[0].failed);
  assert(live_errors == 0 && live_events == 0 && live_loaded == 0 && live_buffers == 0 && live_executables == 0);
  puts("ok");
  return 0;
}
