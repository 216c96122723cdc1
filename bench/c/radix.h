/* The pin table's radix in C: 18/9/9 bits of the page number, frame words, then pin words; src/pin-table/layout.ts. */
#ifndef RADIX_H
#define RADIX_H
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum {
  WORD_GENERATION = 1025, WORD_WAITING = 1026, WORD_EPOCH = 1088, WORD_ROOT = 2048,
  WORD_NODES = WORD_ROOT + (1 << 19), NODE_WORDS = 1024, ROOT_PIN = 1 << 18, NODE_PIN = 512,
  PERM = 3, PIN_VALID = 1, PIN_ONE = 2, PIN_MAX = 1 << 25
};

typedef struct { int32_t *words; int32_t fresh; } radix;

static void radix_init(radix *r, int32_t nodes) {
  size_t bytes = ((size_t)WORD_NODES + (size_t)nodes * NODE_WORDS) * 4;
  r->words = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (r->words == MAP_FAILED) abort();
  r->fresh = 0;
  r->words[WORD_GENERATION] = 1;
}

static inline int32_t radix_child(radix *r, int32_t entry, int32_t pin) {
  int32_t node = r->words[entry];
  if (node == 0) {
    node = WORD_NODES + r->fresh++ * NODE_WORDS;
    r->words[entry] = node;
    r->words[entry + pin] = PIN_VALID;
  }
  return node;
}

/* Inserts one page: walks from the root, then writes the frame word and the pin word. */
static inline void radix_insert(radix *r, uint64_t iova, uint64_t pfn, int32_t perm) {
  int32_t mid = radix_child(r, WORD_ROOT + (int32_t)(iova >> 30), ROOT_PIN);
  int32_t leaf = radix_child(r, mid + (int32_t)(iova >> 21 & 511), NODE_PIN);
  int32_t entry = leaf + (int32_t)(iova >> 12 & 511);
  r->words[entry] = (int32_t)(pfn << 2) | perm;
  r->words[entry + NODE_PIN] = PIN_VALID;
}

static inline int32_t radix_lookup(const int32_t *w, uint64_t iova) {
  if (iova >> 48) return 0;
  int32_t word = w[WORD_ROOT + (int32_t)(iova >> 30)];
  if (word & PERM) return word + ((int32_t)(iova >> 12 & 0x3ffff) << 2);
  word = w[word + (int32_t)(iova >> 21 & 511)];
  if (word & PERM) return word + ((int32_t)(iova >> 12 & 511) << 2);
  return w[word + (int32_t)(iova >> 12 & 511)];
}

/* The protocol of src/pin-table/protocol.ts and pin-counts.ts, step by step. No thread ever waits here. */
static inline void section_enter(int32_t *w) {
  int32_t seen = w[WORD_GENERATION], now;
  for (;; seen = now) {
    __atomic_store_n(&w[WORD_EPOCH], seen, __ATOMIC_SEQ_CST);
    now = __atomic_load_n(&w[WORD_GENERATION], __ATOMIC_SEQ_CST);
    if (now == seen) return;
  }
}
static inline void section_exit(int32_t *w) {
  __atomic_store_n(&w[WORD_EPOCH], 0, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&w[WORD_WAITING], __ATOMIC_SEQ_CST) != 0) abort();
}
static inline void pin_release(int32_t *pin) {
  if (__atomic_fetch_add(pin, -PIN_ONE, __ATOMIC_SEQ_CST) == PIN_ONE) abort();
}
static inline int pin_acquire(int32_t *pin) {
  int32_t before = __atomic_fetch_add(pin, PIN_ONE, __ATOMIC_SEQ_CST);
  if ((before & PIN_VALID) && before < PIN_MAX) return 1;
  pin_release(pin);
  return 0;
}
static int32_t pin_leaf(int32_t *entry, int32_t *pin, int32_t perm, int32_t page) {
  if (!(*entry & PERM) || !pin_acquire(pin)) return -1;
  int32_t frame = *entry;
  if ((frame & PERM) && (frame & perm) == perm) return (int32_t)((uint32_t)frame >> 2) + page;
  pin_release(pin);
  return frame & PERM ? -2 : -1;
}
static int32_t pin_walk(int32_t *w, uint64_t iova, int32_t perm) {
  int32_t *entry = &w[WORD_ROOT + (int32_t)(iova >> 30)], word = *entry;
  if (word == 0) return -1;
  if (word & PERM) return pin_leaf(entry, entry + ROOT_PIN, perm, (int32_t)(iova >> 12 & 0x3ffff));
  entry = &w[word + (int32_t)(iova >> 21 & 511)];
  word = *entry;
  if (word == 0) return -1;
  if (word & PERM) return pin_leaf(entry, entry + NODE_PIN, perm, (int32_t)(iova >> 12 & 511));
  if (!pin_acquire(entry + NODE_PIN)) return -1;
  word = __atomic_load_n(entry, __ATOMIC_RELAXED);
  int32_t *leaf = &w[word + (int32_t)(iova >> 12 & 511)];
  int32_t result = word & PERM ? -1 : pin_leaf(leaf, leaf + NODE_PIN, perm, 0);
  if (result < 0) pin_release(entry + NODE_PIN);
  return result;
}
static int32_t pin_page(int32_t *w, uint64_t iova, int32_t perm) {
  section_enter(w);
  int32_t result = pin_walk(w, iova, perm);
  section_exit(w);
  return result;
}
static int unpin_walk(int32_t *w, uint64_t iova) {
  int32_t *entry = &w[WORD_ROOT + (int32_t)(iova >> 30)], *pin = entry + ROOT_PIN, *link = 0, word = *entry;
  if (word != 0 && !(word & PERM)) {
    entry = &w[word + (int32_t)(iova >> 21 & 511)];
    pin = entry + NODE_PIN;
    word = *entry;
    if (word != 0 && !(word & PERM)) {
      link = pin;
      entry = &w[word + (int32_t)(iova >> 12 & 511)];
      pin = entry + NODE_PIN;
      word = *entry;
    }
  }
  int had = (word & PERM) != 0;
  if (had) {
    pin_release(pin);
    if (link) pin_release(link);
  }
  return had;
}
static int unpin_page(int32_t *w, uint64_t iova) {
  section_enter(w);
  int had = unpin_walk(w, iova);
  section_exit(w);
  return had;
}
#endif
