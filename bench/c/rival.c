/*
 * The C side of the benches: reads one command a line, and prints nanoseconds per operation and a checksum for each.
 *   setup PAGES RUN SEED   maps PAGES pages of 4 KiB in runs of RUN pages (0: one run), and draws random queries
 *   lookup radix|batch|rb|glib N | pin N | pinrun N | insert N
 */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "radix.h"
#include "tree.h"

enum { QUERIES = 1 << 20, RUN_SPAN = 1 << 21, GIB_PAGES = 1 << 18, BATCH = 512, PIN_RUN = 64, SECTION_PAGES = 16 };

static radix table, scratch;
static mapping *tree;
#ifdef WITH_GLIB
static GTree *gtree;
#endif
static uint64_t *queries, *iovas;
static volatile int32_t sink;
/* Masks of a page number: the count of pages is a power of two; the low bits count within a run. */
static uint32_t page_mask, run_mask;
static int run_shift;

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}
static uint32_t state;
static uint32_t next_random(void) { /* xorshift32: the same numbers as on the JavaScript side */
  state ^= state << 13;
  state ^= state >> 17;
  state ^= state << 5;
  return state;
}

/* Returns a random page's IOVA by arithmetic: an array of a million queries would evict the tables from the caches. */
static inline uint64_t random_iova(void) {
  uint32_t n = next_random() & page_mask;
  return (uint64_t)((n & run_mask) | (n & ~run_mask) << run_shift) << 12 | 8;
}

static void setup(int pages, int run, uint32_t seed) {
  if (!queries) queries = malloc(QUERIES * sizeof *queries);
  free(iovas);
  iovas = malloc(pages * sizeof *iovas);
  page_mask = (uint32_t)pages - 1;
  run_mask = run ? (uint32_t)run - 1 : ~0u;
  run_shift = run ? __builtin_ctz(RUN_SPAN / 4096 / run) : 0;
  radix_init(&table, 1 << 17);
  tree = 0; /* the old tree is leaked on purpose: freeing it takes time and has no use */
#ifdef WITH_GLIB
  gtree = g_tree_new_full(interval_compare, 0, 0, 0);
#endif
  for (int i = 0; i < pages; i++)
    iovas[i] = run ? (uint64_t)(i / run) * RUN_SPAN + (uint64_t)(i % run) * 4096 : (uint64_t)i * 4096;
  state = seed;
  for (int i = 0; i < QUERIES; i++) queries[i] = iovas[next_random() % (uint32_t)pages] + 8;
  for (int i = 0; i < pages; i++) radix_insert(&table, iovas[i], (1u << 28) + i, 3);
  for (int i = pages - 1; i > 0; i--) { /* a tree receives mappings in any order */
    int j = next_random() % (uint32_t)(i + 1);
    uint64_t t = iovas[i];
    iovas[i] = iovas[j], iovas[j] = t;
  }
  for (int i = 0; i < pages; i++) {
    rb_insert(&tree, iovas[i], (1u << 28) + i, 3);
#ifdef WITH_GLIB
    g_insert(gtree, iovas[i], (1u << 28) + i, 3);
#endif
  }
}

/* Draws a list of pages, and then looks all of them up. */
static uint64_t list[BATCH];
static int32_t found[BATCH];
static uint32_t lookup_batch(void) {
  for (int i = 0; i < BATCH; i++) list[i] = random_iova();
  for (int i = 0; i < BATCH; i++) found[i] = radix_lookup(table.words, list[i]);
  uint32_t sum = 0;
  for (int i = 0; i < BATCH; i++) sum += (uint32_t)found[i];
  return sum;
}

static double lookups_once(const char *what, int n) {
  uint32_t sum = 0;
  double start = now_ns();
  if (!strcmp(what, "radix"))
    for (int i = 0; i < n; i++) sum += radix_lookup(table.words, random_iova());
  else if (!strcmp(what, "batch"))
    for (int i = 0; i < n; i += BATCH) sum += lookup_batch();
  else if (!strcmp(what, "rb"))
    for (int i = 0; i < n; i++) sum += rb_lookup(tree, random_iova());
#ifdef WITH_GLIB
  else
    for (int i = 0; i < n; i++) sum += g_lookup(gtree, random_iova());
#endif
  sink = sum;
  return (now_ns() - start) / n;
}

/* The first pass loads what the other side has evicted from the caches. */
static double lookups(const char *what, int n) {
  lookups_once(what, n);
  return lookups_once(what, n);
}

static double pins(int n) {
  uint32_t sum = 0;
  double start = now_ns();
  for (int i = 0; i < n; i++) {
    sum += pin_page(table.words, queries[i & (QUERIES - 1)], 3);
    sum += unpin_page(table.words, queries[i & (QUERIES - 1)]);
  }
  sink = sum;
  return (now_ns() - start) / n;
}

/* Pins and unpins runs of consecutive pages, in sections of SECTION_PAGES. */
static double pin_runs(int n) {
  uint32_t sum = 0;
  double start = now_ns();
  for (int i = 0; i < n; i += PIN_RUN) {
    uint64_t first = queries[i & (QUERIES - 1)] & ~(uint64_t)(PIN_RUN * 4096 - 1);
    for (int at = 0; at < PIN_RUN; at += SECTION_PAGES) {
      section_enter(table.words);
      for (int j = at; j < at + SECTION_PAGES; j++) sum += pin_walk(table.words, first + j * 4096, 3) < 0;
      section_exit(table.words);
    }
    for (int at = 0; at < PIN_RUN; at += SECTION_PAGES) {
      section_enter(table.words);
      for (int j = at; j < at + SECTION_PAGES; j++) sum += !unpin_walk(table.words, first + j * 4096);
      section_exit(table.words);
    }
  }
  if (sum) abort();
  return (now_ns() - start) / n;
}

/* Inserts 1 GiB as 4 KiB pages, n times into the same nodes: links are new each time, memory is warm. */
static double inserts(int n) {
  if (!scratch.words) radix_init(&scratch, 1024);
  double total = 0;
  for (int round = 0; round < n; round++) {
    for (int mid = 0; mid < 512; mid++) scratch.words[WORD_NODES + mid] = 0;
    scratch.words[WORD_ROOT] = 0;
    scratch.fresh = 0;
    double start = now_ns();
    for (int i = 0; i < GIB_PAGES; i++) radix_insert(&scratch, (uint64_t)i * 4096, (1u << 28) + 1 + i, 3);
    total += now_ns() - start;
  }
  return total / n;
}

int main(void) {
  char line[128], what[16];
  int a, b;
  unsigned seed;
  while (fgets(line, sizeof line, stdin)) {
    double answer = 0;
    if (sscanf(line, "setup %d %d %u", &a, &b, &seed) == 3) setup(a, b, seed);
    else if (sscanf(line, "lookup %15s %d", what, &a) == 2) answer = lookups(what, a);
    else if (sscanf(line, "pin %d", &a) == 1) answer = pins(a);
    else if (sscanf(line, "pinrun %d", &a) == 1) answer = pin_runs(a);
    else if (sscanf(line, "insert %d", &a) == 1) answer = inserts(a);
    else return 1;
    printf("%.4f %u\n", answer, (unsigned)sink);
    fflush(stdout);
  }
  return 0;
}
