//go:build cgo

// A plugin's profiler is an extension of its table: a table of its own, whose structs XLA keeps in
// xla/backends/profiler/plugin/profiler_c_api.h.
#include "plugin.h"

typedef struct profiler profiler;
typedef struct profiler_error profiler_error;

typedef struct { size_t struct_size; const char *options; size_t options_size; profiler *profiler; } create_args;
typedef struct { size_t struct_size; profiler *profiler; } profiler_args;
typedef struct { size_t struct_size; profiler *profiler; uint8_t *buffer; size_t size; } collect_args;
typedef struct { size_t struct_size; void *priv; profiler_error *error; } destroy_error_args;
typedef struct { size_t struct_size; void *priv; const profiler_error *error; const char *message; size_t size; } message_args;

typedef struct {
  size_t struct_size;
  void *priv;
  void (*error_destroy)(destroy_error_args *);
  void (*error_message)(message_args *);
  void *error_get_code;
  profiler_error *(*create)(create_args *);
  profiler_error *(*destroy)(profiler_args *);
  profiler_error *(*start)(profiler_args *);
  profiler_error *(*stop)(profiler_args *);
  profiler_error *(*collect)(collect_args *);
} profiler_table;

typedef struct { PJRT_Extension_Base base; profiler_table *table; } profiler_extension;

static profiler_table *table_of(const PJRT_Api *real) {
  for (PJRT_Extension_Base *e = real->extension_start; e; e = e->next)
    if (e->type == PJRT_Extension_Type_Profiler) return ((profiler_extension *)e)->table;
  return NULL;
}

// text makes a message of an error, and destroys it; NULL where there is none.
static char *text(profiler_table *t, profiler_error *e) {
  if (!e) return NULL;
  message_args m = {sizeof m, NULL, e, NULL, 0};
  t->error_message(&m);
  char *copy = strndup(m.message, m.size);
  destroy_error_args d = {sizeof d, NULL, e};
  t->error_destroy(&d);
  return copy;
}

char *seam_profile_start(const PJRT_Api *real, void **out) {
  // tensorflow.ProfileOptions: version 1, nothing of the host, all of the device.
  static const char options[] = {5 << 3, 1, 2 << 3, 0, 3 << 3, 1};
  profiler_table *t = table_of(real);
  if (!t) return strdup("the plugin has no profiler");
  create_args c = {sizeof c, options, sizeof options, NULL};
  char *error = text(t, t->create(&c));
  if (error) return error;
  profiler_args a = {sizeof a, c.profiler};
  if ((error = text(t, t->start(&a)))) {
    free(text(t, t->destroy(&a)));
    return error;
  }
  *out = c.profiler;
  return NULL;
}

char *seam_profile_stop(const PJRT_Api *real, void *handle, uint8_t **data, size_t *size) {
  profiler_table *t = table_of(real);
  profiler_args a = {sizeof a, handle};
  collect_args c = {sizeof c, handle, NULL, 0};
  char *error = text(t, t->stop(&a));
  // The first call tells the size. Where it, or the second, points to memory of its own, the data are there.
  if (!error) error = text(t, t->collect(&c));
  if (!error) {
    uint8_t *copy = calloc(1, c.size + 1);
    if (!c.buffer) {
      c.buffer = copy;
      error = text(t, t->collect(&c));
    }
    if (!error && c.buffer != copy) memcpy(copy, c.buffer, c.size);
    *data = copy;
    *size = c.size;
  }
  free(text(t, t->destroy(&a)));
  return error;
}
