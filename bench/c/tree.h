/*
 * Trees that the radix is compared with. One is a red-black tree of mappings by IOVA, with one allocated node per
 * mapping, as in the kernel's type1. The other, if GLib's headers are installed, is its balanced tree, as in QEMU's
 * IOVA tree.
 */
#ifndef TREE_H
#define TREE_H
#include <stdint.h>
#include <stdlib.h>

typedef struct mapping {
  struct mapping *child[2], *parent;
  uint64_t iova, size, vaddr, pfn;
  int32_t perm, red;
  /* After these, type1's mapping has a tree of pinned pages, a dirty bitmap, and the owner's task and mm. */
  void *rest[5];
} mapping;

static void rb_rotate(mapping **root, mapping *x, int side) {
  mapping *y = x->child[!side];
  x->child[!side] = y->child[side];
  if (y->child[side]) y->child[side]->parent = x;
  y->parent = x->parent;
  if (!x->parent) *root = y;
  else x->parent->child[x->parent->child[1] == x] = y;
  y->child[side] = x;
  x->parent = y;
}

static void rb_insert(mapping **root, uint64_t iova, uint64_t pfn, int32_t perm) {
  mapping *m = calloc(1, sizeof *m), *parent = 0, **slot = root;
  if (!m) abort();
  m->iova = iova, m->size = 4096, m->pfn = pfn, m->perm = perm, m->red = 1;
  while (*slot) parent = *slot, slot = &parent->child[iova > parent->iova];
  m->parent = parent;
  *slot = m;
  while (m->parent && m->parent->red) {
    mapping *p = m->parent, *g = p->parent;
    int side = g->child[1] == p;
    mapping *uncle = g->child[!side];
    if (uncle && uncle->red) {
      p->red = uncle->red = 0;
      g->red = 1;
      m = g;
      continue;
    }
    if (p->child[!side] == m) {
      rb_rotate(root, p, side);
      m = p;
      p = m->parent;
    }
    p->red = 0;
    g->red = 1;
    rb_rotate(root, g, !side);
  }
  (*root)->red = 0;
}

static inline int32_t rb_lookup(const mapping *m, uint64_t iova) {
  while (m) {
    if (iova < m->iova) m = m->child[0];
    else if (iova >= m->iova + m->size) m = m->child[1];
    else return (int32_t)((m->pfn + ((iova - m->iova) >> 12)) << 2) | m->perm;
  }
  return 0;
}

#ifdef WITH_GLIB
#include <glib.h>
static gint interval_compare(gconstpointer a, gconstpointer b, gpointer data) {
  const mapping *x = a, *y = b;
  (void)data;
  return x->iova > y->iova + y->size - 1 ? 1 : x->iova + x->size - 1 < y->iova ? -1 : 0;
}
static void g_insert(GTree *tree, uint64_t iova, uint64_t pfn, int32_t perm) {
  mapping *m = calloc(1, sizeof *m);
  m->iova = iova, m->size = 4096, m->pfn = pfn, m->perm = perm;
  g_tree_insert(tree, m, m);
}
static inline int32_t g_lookup(GTree *tree, uint64_t iova) {
  mapping needle = {.iova = iova, .size = 1};
  const mapping *m = g_tree_lookup(tree, &needle);
  return m ? (int32_t)((m->pfn + ((iova - m->iova) >> 12)) << 2) | m->perm : 0;
}
#endif
#endif
