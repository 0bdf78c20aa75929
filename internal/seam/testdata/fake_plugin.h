// A PJRT plugin for tests, all counters. Executions end in order, when the test lets them.
struct PJRT_Error { PJRT_Error_Code code; const char *text; };
struct PJRT_Event { int number; };
struct PJRT_Buffer { int n; };
struct PJRT_Memory { const char *kind; };
struct PJRT_Device { int n; };
struct PJRT_DeviceDescription { int n; };
struct PJRT_Client { PJRT_Device *devices[2]; };
struct PJRT_LoadedExecutable { int n; };
struct PJRT_Executable { int n; };

static atomic_int live_errors, live_events, live_buffers, live_loaded, live_executables, executions, compilations;
static pthread_mutex_t device_mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t device_cond = PTHREAD_COND_INITIALIZER;
static int results;  // of every program
static int started, ended, fails_at = -1, fail_copy_at = -1, fail_load;
static int gate, at_gate;  // executions wait until `gate` of them have begun
static atomic_int launches;
static _Atomic(PJRT_LoadedExecutable *) slow;  // takes a while, in which others launch so much:
static atomic_int meanwhile;

static PJRT_Error *fail(PJRT_Error_Code code, const char *text) {
  PJRT_Error *e = malloc(sizeof *e);
  e->code = code;
  e->text = text;
  live_errors++;
  return e;
}
static void fake_error_destroy(PJRT_Error_Destroy_Args *a) { if (a->error) { live_errors--; free(a->error); } }
static void fake_error_message(PJRT_Error_Message_Args *a) { a->message = a->error->text; a->message_size = strlen(a->message); }
static PJRT_Error *fake_error_code(PJRT_Error_GetCode_Args *a) { a->code = a->error->code; return NULL; }
static PJRT_Event *new_event(void) {
  PJRT_Event *e = malloc(sizeof *e);
  pthread_mutex_lock(&device_mu);
  e->number = started++;
  pthread_mutex_unlock(&device_mu);
  live_events++;
  return e;
}
static PJRT_Error *fake_await(PJRT_Event_Await_Args *a) {
  pthread_mutex_lock(&device_mu);
  while (a->event->number >= ended) pthread_cond_wait(&device_cond, &device_mu);
  int failed = a->event->number == fails_at;
  pthread_mutex_unlock(&device_mu);
  return failed ? fail(PJRT_Error_Code_RESOURCE_EXHAUSTED, "out of memory") : NULL;
}
static PJRT_Error *fake_event_destroy(PJRT_Event_Destroy_Args *a) { live_events--; free(a->event); return NULL; }
static void end_until(int n) {
  pthread_mutex_lock(&device_mu);
  ended = n;
  pthread_cond_broadcast(&device_cond);
  pthread_mutex_unlock(&device_mu);
}
static PJRT_Error *fake_execute(PJRT_LoadedExecutable_Execute_Args *a) {
  launches++;
  if (a->executable == slow) {
    int before = launches;
    usleep(20000);
    meanwhile = launches - before;
  }
  pthread_mutex_lock(&device_mu);
  at_gate++;
  pthread_cond_broadcast(&device_cond);
  while (at_gate < gate) pthread_cond_wait(&device_cond, &device_mu);
  pthread_mutex_unlock(&device_mu);
  executions++;
  for (int i = 0; a->output_lists && i < results; i++) {
    live_buffers++;
    a->output_lists[0][i] = calloc(1, sizeof(PJRT_Buffer));
  }
  if (a->device_complete_events) a->device_complete_events[0] = new_event();
  return NULL;
}
static PJRT_Error *fake_client_create(PJRT_Client_Create_Args *a) {
  a->client = malloc(sizeof *a->client);
  for (int i = 0; i < 2; i++) a->client->devices[i] = calloc(1, sizeof(PJRT_Device));
  return NULL;
}
static PJRT_Error *fake_client_destroy(PJRT_Client_Destroy_Args *a) {
  for (int i = 0; i < 2; i++) free(a->client->devices[i]);
  free(a->client);
  return NULL;
}
static PJRT_Error *fake_devices(PJRT_Client_AddressableDevices_Args *a) {
  a->addressable_devices = a->client->devices;
  a->num_addressable_devices = 2;
  return NULL;
}
static PJRT_Error *fake_platform_name(PJRT_Client_PlatformName_Args *a) { a->platform_name = "fake"; a->platform_name_size = 4; return NULL; }
static PJRT_Error *fake_platform_version(PJRT_Client_PlatformVersion_Args *a) { a->platform_version = "v1"; a->platform_version_size = 2; return NULL; }
static PJRT_DeviceDescription description;
static PJRT_Error *fake_description(PJRT_Device_GetDescription_Args *a) { a->device_description = &description; return NULL; }
static PJRT_Error *fake_attributes(PJRT_DeviceDescription_Attributes_Args *a) {
  static const PJRT_NamedValue all[] = {{.name = "core_count", .name_size = 10, .type = PJRT_NamedValue_kInt64, .int64_value = 132, .value_size = 1},
                                        {.name = "compute_capability", .name_size = 18, .type = PJRT_NamedValue_kString, .string_value = "9.0!", .value_size = 3}};
  a->attributes = all;
  a->num_attributes = 2;
  return NULL;
}
static PJRT_Error *fake_kind(PJRT_DeviceDescription_Kind_Args *a) { a->device_kind = "chip"; a->device_kind_size = 4; return NULL; }
static PJRT_Error *fake_memory_stats(PJRT_Device_MemoryStats_Args *a) { a->bytes_in_use = 7; a->bytes_limit = 9; a->bytes_limit_is_set = true; a->pool_bytes = 8; a->pool_bytes_is_set = true; return NULL; }
static PJRT_LoadedExecutable *new_loaded(void) { live_loaded++; return calloc(1, sizeof(PJRT_LoadedExecutable)); }
static char compiled_text[64], compiled_options[64];
static PJRT_Error *fake_compile(PJRT_Client_Compile_Args *a) {
  compilations++;
  snprintf(compiled_text, sizeof compiled_text, "%.*s", (int)a->program->code_size, a->program->code);
  snprintf(compiled_options, sizeof compiled_options, "%.*s", (int)a->compile_options_size, a->compile_options);
  a->executable = new_loaded();
  return NULL;
}
static PJRT_Error *fake_loaded_destroy(PJRT_LoadedExecutable_Destroy_Args *a) { live_loaded--; free(a->executable); return NULL; }
static PJRT_Error *fake_executable(PJRT_LoadedExecutable_GetExecutable_Args *a) { live_executables++; a->executable = calloc(1, sizeof(PJRT_Executable)); return NULL; }
static PJRT_Error *fake_executable_destroy(PJRT_Executable_Destroy_Args *a) { live_executables--; free(a->executable); return NULL; }
static PJRT_Error *fake_num_outputs(PJRT_Executable_NumOutputs_Args *a) { a->num_outputs = results; return NULL; }
static PJRT_Error *fake_name(PJRT_Executable_Name_Args *a) { a->executable_name = "step"; a->executable_name_size = 4; return NULL; }
static PJRT_Error *fake_memory_use(PJRT_Executable_GetCompiledMemoryStats_Args *a) { 
  a->argument_size_in_bytes = 100;
  a->output_size_in_bytes = 20;
  a->alias_size_in_bytes = 8;
  a->temp_size_in_bytes = 3;
  return fail_load == 2 ? fail(PJRT_Error_Code_UNIMPLEMENTED, "no statistics") : NULL;
}
static void deleter(PJRT_SerializedExecutable *s) { free(s); live_executables--; }
static PJRT_Error *fake_serialize(PJRT_Executable_Serialize_Args *a) {
  live_executables++;
  a->serialized_executable = malloc(1);
  a->serialized_executable_deleter = deleter;
  a->serialized_bytes = "machine code";
  a->serialized_bytes_size = 12;
  return NULL;
}
static PJRT_Error *fake_deserialize(PJRT_Executable_DeserializeAndLoad_Args *a) {
  if (fail_load == 1) return fail(PJRT_Error_Code_INVALID_ARGUMENT, "stale");
  a->loaded_executable = new_loaded();
  return NULL;
}
static PJRT_Memory device_memory = {"device"}, host_memory = {"pinned_host"};
static PJRT_Memory *memories[] = {&device_memory, &host_memory};
static PJRT_Error *fake_memories(PJRT_Device_AddressableMemories_Args *a) { a->memories = memories; a->num_memories = 2; return NULL; }
static PJRT_Error *fake_memory_kind(PJRT_Memory_Kind_Args *a) { a->kind = a->memory->kind; a->kind_size = strlen(a->kind); return NULL; }
static PJRT_Error *fake_copy(PJRT_Buffer_CopyToMemory_Args *a) {
  launches++;
  if (a->buffer->n == fail_copy_at) return fail(PJRT_Error_Code_RESOURCE_EXHAUSTED, "no room");
  assert(a->dst_memory == &host_memory);
  live_buffers++;
  a->dst_buffer = calloc(1, sizeof(PJRT_Buffer));
  return NULL;
}
static PJRT_Error *fake_ready(PJRT_Buffer_ReadyEvent_Args *a) { a->event = new_event(); return NULL; }
static PJRT_Error *fake_upload(PJRT_Client_BufferFromHostBuffer_Args *a) { launches++; live_buffers++; a->buffer = calloc(1, sizeof(PJRT_Buffer)); return NULL; }
static PJRT_Error *fake_read(PJRT_Buffer_ToHostBuffer_Args *a) { launches++; a->event = new_event(); return NULL; }
static PJRT_Error *fake_buffer_destroy(PJRT_Buffer_Destroy_Args *a) { launches++; live_buffers--; free(a->buffer); return NULL; }

static PJRT_Api fake = {
  .struct_size = sizeof(PJRT_Api),
  .pjrt_api_version = {.major_version = PJRT_API_MAJOR, .minor_version = PJRT_API_MINOR},
  .PJRT_Error_Destroy = fake_error_destroy, .PJRT_Error_Message = fake_error_message, .PJRT_Error_GetCode = fake_error_code,
  .PJRT_Event_Await = fake_await, .PJRT_Event_Destroy = fake_event_destroy,
  .PJRT_Client_Create = fake_client_create, .PJRT_Client_Destroy = fake_client_destroy,
  .PJRT_Client_PlatformName = fake_platform_name, .PJRT_Client_PlatformVersion = fake_platform_version,
  .PJRT_Client_AddressableDevices = fake_devices, .PJRT_Client_Compile = fake_compile,
  .PJRT_Device_GetDescription = fake_description, .PJRT_DeviceDescription_Attributes = fake_attributes, .PJRT_DeviceDescription_Kind = fake_kind,
  .PJRT_Device_AddressableMemories = fake_memories, .PJRT_Device_MemoryStats = fake_memory_stats, .PJRT_Memory_Kind = fake_memory_kind,
  .PJRT_LoadedExecutable_Execute = fake_execute, .PJRT_LoadedExecutable_Destroy = fake_loaded_destroy,
  .PJRT_LoadedExecutable_GetExecutable = fake_executable, .PJRT_Executable_Destroy = fake_executable_destroy,
  .PJRT_Executable_GetCompiledMemoryStats = fake_memory_use, .PJRT_Executable_Serialize = fake_serialize,
  .PJRT_Executable_NumOutputs = fake_num_outputs, .PJRT_Executable_Name = fake_name, .PJRT_Buffer_ToHostBuffer = fake_read,
  .PJRT_Executable_DeserializeAndLoad = fake_deserialize, .PJRT_Client_BufferFromHostBuffer = fake_upload,
  .PJRT_Buffer_CopyToMemory = fake_copy, .PJRT_Buffer_ReadyEvent = fake_ready, .PJRT_Buffer_Destroy = fake_buffer_destroy,
};
