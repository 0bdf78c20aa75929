//go:build cgo

// A program's first execution, and those after it.
#include "plugin.h"

static bool is_fresh(plugin *p, PJRT_LoadedExecutable *exec) {
  bool found = false;
  pthread_mutex_lock(&p->mu);
  for (int i = 0; i < p->nfresh && !found; i++) found = p->fresh[i] == exec;
  pthread_mutex_unlock(&p->mu);
  return found;
}

void seam_set_fresh(plugin *p, PJRT_LoadedExecutable *exec, bool fresh) {
  pthread_mutex_lock(&p->mu);
  for (int i = p->nfresh; i--;) if (p->fresh[i] == exec) p->fresh[i] = p->fresh[--p->nfresh];
  if (fresh) {
    PJRT_LoadedExecutable **grown = realloc(p->fresh, (p->nfresh + 1) * sizeof *grown);
    if (!grown) abort();
    p->fresh = grown;
    grown[p->nfresh++] = exec;
  }
  pthread_mutex_unlock(&p->mu);
}

// seam_launch executes a program, its first time with nobody else launching: see launching.
PJRT_Error *seam_launch(plugin *p, PJRT_LoadedExecutable_Execute_Args *a) {
  bool first = is_fresh(p, a->executable);
  if (first) pthread_rwlock_wrlock(&p->launching);
  else pthread_rwlock_rdlock(&p->launching);
  PJRT_Error *e = p->real->PJRT_LoadedExecutable_Execute(a);
  pthread_rwlock_unlock(&p->launching);
  if (first && !e) seam_set_fresh(p, a->executable, false);
  return e;
}
