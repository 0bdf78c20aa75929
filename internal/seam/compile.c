//go:build cgo

// The compile hook: Go rewrites the program, and keeps compiled ones on disk.
#include "plugin.h"

#include "_cgo_export.h"

// hardware names the platform, its version and the kinds of its devices, malloc'ed.
static char *hardware(const PJRT_Api *real, PJRT_Client *client) {
  char *text = NULL;
  size_t size = 0;
  FILE *f = open_memstream(&text, &size);
  if (!f) return strdup("");
  ARGS(PJRT_Client_PlatformName_Args, n);
  n.client = client;
  seam_drop(real, real->PJRT_Client_PlatformName(&n));
  ARGS(PJRT_Client_PlatformVersion_Args, v);
  v.client = client;
  seam_drop(real, real->PJRT_Client_PlatformVersion(&v));
  fprintf(f, "%.*s\n%.*s\n", (int)n.platform_name_size, n.platform_name, (int)v.platform_version_size, v.platform_version);
  ARGS(PJRT_Client_AddressableDevices_Args, d);
  d.client = client;
  seam_drop(real, real->PJRT_Client_AddressableDevices(&d));
  for (size_t i = 0; i < d.num_addressable_devices; i++) {
    ARGS(PJRT_Device_GetDescription_Args, g);
    g.device = d.addressable_devices[i];
    PJRT_Error *e = real->PJRT_Device_GetDescription(&g);
    if (e) { seam_drop(real, e); continue; }
    ARGS(PJRT_DeviceDescription_Kind_Args, k);
    k.device_description = g.device_description;
    seam_drop(real, real->PJRT_DeviceDescription_Kind(&k));
    fprintf(f, "%.*s\n", (int)k.device_kind_size, k.device_kind);
  }
  fclose(f);
  return text;
}

// executable_of returns the executable of a loaded one, to be destroyed.
static PJRT_Error *executable_of(const PJRT_Api *real, PJRT_LoadedExecutable *loaded, PJRT_Executable **out) {
  ARGS(PJRT_LoadedExecutable_GetExecutable_Args, g);
  g.loaded_executable = loaded;
  PJRT_Error *e = real->PJRT_LoadedExecutable_GetExecutable(&g);
  *out = g.executable;
  return e;
}

static void destroy_executable(const PJRT_Api *real, PJRT_Executable *executable) {
  ARGS(PJRT_Executable_Destroy_Args, d);
  d.executable = executable;
  seam_drop(real, real->PJRT_Executable_Destroy(&d));
}

// load tries a serialized executable. One that does not load, or lacks what go-xla asks of every executable, is stale.
static PJRT_LoadedExecutable *load(const PJRT_Api *real, int slot, PJRT_Client *client, const seam_program *o) {
  ARGS(PJRT_Executable_DeserializeAndLoad_Args, a);
  a.client = client;
  a.serialized_executable = o->cached;
  a.serialized_executable_size = o->cached_size;
  PJRT_Error *e = real->PJRT_Executable_DeserializeAndLoad(&a);
  int loaded = !e;
  PJRT_Executable *executable = NULL;
  if (!e) e = executable_of(real, a.loaded_executable, &executable);
  if (!e && HAS(real, PJRT_Executable_GetCompiledMemoryStats)) {
    ARGS(PJRT_Executable_GetCompiledMemoryStats_Args, s);
    s.executable = executable;
    e = real->PJRT_Executable_GetCompiledMemoryStats(&s);
  }
  if (executable) destroy_executable(real, executable);
  char *stale = seam_message(real, e);
  if (stale && loaded) {
    ARGS(PJRT_LoadedExecutable_Destroy_Args, d);
    d.executable = a.loaded_executable;
    seam_drop(real, real->PJRT_LoadedExecutable_Destroy(&d));
  }
  loris_seam_cached(slot, o->cache_key, stale ? SEAM_STALE : SEAM_LOADED, stale, stale ? strlen(stale) : 0);
  PJRT_LoadedExecutable *result = stale ? NULL : a.loaded_executable;
  free(stale);
  return result;
}

// store hands the serialized executable to Go's cache; a plugin that cannot serialize is no error.
static void store(const PJRT_Api *real, int slot, PJRT_LoadedExecutable *loaded, char *key) {
  PJRT_Executable *executable = NULL;
  ARGS(PJRT_Executable_Serialize_Args, s);
  PJRT_Error *e = executable_of(real, loaded, &executable);
  if (!e) {
    s.executable = executable;
    e = real->PJRT_Executable_Serialize(&s);
    if (!e) {
      loris_seam_cached(slot, key, SEAM_SERIALIZED, (char *)s.serialized_bytes, s.serialized_bytes_size);
      s.serialized_executable_deleter(s.serialized_executable);
    }
    destroy_executable(real, executable);
  }
  char *why = seam_message(real, e);
  if (why) loris_seam_cached(slot, key, SEAM_UNSERIALIZABLE, why, strlen(why));
  free(why);
}

static PJRT_Error *remember_copier(plugin *p, PJRT_LoadedExecutable *exec, const char *kind) {
  pthread_mutex_lock(&p->mu);
  struct copier *grown = realloc(p->copiers, (p->ncopiers + 1) * sizeof *grown);
  if (grown) {
    p->copiers = grown;
    grown[p->ncopiers].exec = exec;
    snprintf(grown[p->ncopiers++].kind, KIND, "%s", kind);
  }
  pthread_mutex_unlock(&p->mu);
  return grown ? NULL : seam_new_error(PJRT_Error_Code_RESOURCE_EXHAUSTED, "out of host memory", "");
}

// measure tells Go what memory an executable takes; a plugin that does not know it is no error.
static void measure(const PJRT_Api *real, int slot, PJRT_LoadedExecutable *loaded, int64_t number) {
  if (!HAS(real, PJRT_Executable_GetCompiledMemoryStats)) return;
  PJRT_Executable *executable = NULL;
  PJRT_Error *e = executable_of(real, loaded, &executable);
  if (!e) {
    ARGS(PJRT_Executable_GetCompiledMemoryStats_Args, s);
    s.executable = executable;
    e = real->PJRT_Executable_GetCompiledMemoryStats(&s);
    if (!e) {
      seam_footprint f = {s.argument_size_in_bytes, s.output_size_in_bytes, s.alias_size_in_bytes, s.temp_size_in_bytes};
      loris_seam_measured(slot, number, &f);
    }
    destroy_executable(real, executable);
  }
  seam_drop(real, e);
}

PJRT_Error *seam_compile(plugin *p, int slot, PJRT_Client_Compile_Args *a) {
  seam_program o;
  memset(&o, 0, sizeof o);
  char *where = hardware(p->real, a->client);
  loris_seam_compile(slot, (char *)a->program->code, a->program->code_size, (char *)a->compile_options, a->compile_options_size, where, &o);
  free(where);
  PJRT_Error *e = o.error ? seam_new_error(PJRT_Error_Code_INVALID_ARGUMENT, "", o.error) : NULL;
  PJRT_LoadedExecutable *exec = o.cached ? load(p->real, slot, a->client, &o) : NULL;
  if (!e && !exec) {
    const PJRT_Client_Compile_Args given = *a;
    PJRT_Program program = *a->program;
    program.code = o.code;
    program.code_size = o.code_size;
    a->program = &program;
    a->compile_options = o.options;
    a->compile_options_size = o.options_size;
    e = p->real->PJRT_Client_Compile(a);
    exec = a->executable;
    a->program = given.program;
    a->compile_options = given.compile_options;
    a->compile_options_size = given.compile_options_size;
    if (!e && o.cache_key) store(p->real, slot, exec, o.cache_key);
  }
  if (!e && o.number) measure(p->real, slot, exec, o.number);
  if (!e && o.memory_kind) e = remember_copier(p, exec, o.memory_kind);
  else if (!e) seam_set_fresh(p, exec, true);  // a copier is never executed
  a->executable = e ? NULL : exec;
  free(o.error); free(o.code); free(o.options); free(o.memory_kind); free(o.cached); free(o.cache_key);
  return e;
}
