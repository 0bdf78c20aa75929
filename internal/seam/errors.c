//go:build cgo

// Errors of plugins, and errors that the seam makes itself.
#include "plugin.h"

// Errors of our own, from a fixed set so that their addresses tell them from the plugin's. Callers read and destroy
// them at once; should all be in use, the last one is shared.
typedef struct { int used; PJRT_Error_Code code; char text[2048]; } own_error;
enum { ERRORS = 64 };
static own_error errors[ERRORS];
static pthread_mutex_t errors_mu = PTHREAD_MUTEX_INITIALIZER;

static own_error *own(const PJRT_Error *e) {
  return (char *)e >= (char *)errors && (char *)e < (char *)(errors + ERRORS) ? (own_error *)e : NULL;
}

PJRT_Error *seam_new_error(PJRT_Error_Code code, const char *before, const char *text) {
  pthread_mutex_lock(&errors_mu);
  int i = 0;
  while (i < ERRORS - 1 && errors[i].used) i++;
  errors[i].used = 1;
  errors[i].code = code;
  snprintf(errors[i].text, sizeof errors[i].text, "%s%s", before, text);
  pthread_mutex_unlock(&errors_mu);
  return (PJRT_Error *)&errors[i];
}

void seam_error_destroy(const PJRT_Api *real, PJRT_Error_Destroy_Args *a) {
  own_error *e = own(a->error);
  if (!e) { real->PJRT_Error_Destroy(a); return; }
  pthread_mutex_lock(&errors_mu);
  e->used = 0;
  pthread_mutex_unlock(&errors_mu);
}

void seam_error_message(const PJRT_Api *real, PJRT_Error_Message_Args *a) {
  own_error *e = own(a->error);
  if (!e) { real->PJRT_Error_Message(a); return; }
  a->message = e->text;
  a->message_size = strlen(e->text);
}

PJRT_Error *seam_error_code(const PJRT_Api *real, PJRT_Error_GetCode_Args *a) {
  own_error *e = own(a->error);
  if (!e) return real->PJRT_Error_GetCode(a);
  a->code = e->code;
  return NULL;
}

// seam_message takes an error: its text, malloc'ed, or NULL for no error.
char *seam_message(const PJRT_Api *real, PJRT_Error *e) {
  if (!e) return NULL;
  ARGS(PJRT_Error_Message_Args, m);
  m.error = e;
  seam_error_message(real, &m);
  char *text = strndup(m.message, m.message_size);
  ARGS(PJRT_Error_Destroy_Args, d);
  d.error = e;
  seam_error_destroy(real, &d);
  return text;
}

void seam_drop(const PJRT_Api *real, PJRT_Error *e) { free(seam_message(real, e)); }

static PJRT_Error_Code code_of(const PJRT_Api *real, PJRT_Error *e) {
  ARGS(PJRT_Error_GetCode_Args, c);
  c.error = e;
  PJRT_Error *none = seam_error_code(real, &c);
  if (!none) return c.code;
  seam_drop(real, none);
  return PJRT_Error_Code_UNKNOWN;
}

// seam_told takes an error: what Go is told of it, as seam_message. That has no code, so the text says where memory was short.
char *seam_told(const PJRT_Api *real, PJRT_Error *e) {
  if (!e || code_of(real, e) != PJRT_Error_Code_RESOURCE_EXHAUSTED) return seam_message(real, e);
  static const char code[] = "RESOURCE_EXHAUSTED: ";
  char *text = seam_message(real, e), *told = malloc(sizeof code + strlen(text));
  strcat(strcpy(told, code), text);
  free(text);
  return told;
}

// seam_late takes the error of an earlier execution and says what it is.
PJRT_Error *seam_late(const PJRT_Api *real, PJRT_Error *e) {
  PJRT_Error_Code code = code_of(real, e);
  char *text = seam_message(real, e);
  PJRT_Error *wrapped = seam_new_error(code, "an earlier asynchronous execution failed: ", text);
  free(text);
  return wrapped;
}

// seam_keep_first merges errors: the first one stays, the second is dropped.
PJRT_Error *seam_keep_first(const PJRT_Api *real, PJRT_Error *first, PJRT_Error *second) {
  if (first && second) seam_drop(real, second);
  return first ? first : second;
}
