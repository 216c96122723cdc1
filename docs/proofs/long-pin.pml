/*
 * Long pins: pinAcquire and pinRelease against invalidate, wait, clear, reuse (src/pin-table/protocol.ts, writer.ts).
 *
 * Labels are the site names of src/platform/schedule-points.ts with underscores for dots; test/unit/proofs.test.ts
 * compares them. Runs are unbounded, as in short-dma.pml.
 *
 * A pin is taken and dropped inside a short-DMA section, which has the properties that short-dma.pml proves: a drain
 * waits for every section that was open at the bump, and a later section sees what the bump published. A reader that
 * holds a pin drops it after a finite time. `dmaUnmap` requires no more.
 *
 * Mutants, one -D each: STORE_FOR_AND CHECK_BEFORE_ADD NO_UNDO LOST_NOTIFY LOST_UNDO_NOTIFY STORE_FOR_OR EARLY_CLEAR.
 * LIVENESS adds the claim that every unmap ends. It is true with BACK_OFF, where a reader whose pin failed does not
 * retry before the unmap ends, and false without it.
 */
#define READERS 2
#define PAGES 2
#define NODES 2
#define FRAMES 2

#define PIN_VALID 1
#define PIN_ONE 2

/* page -> leaf entry -> frame; 0 means none. Entries and frames are numbered from 1. A node has one entry. */
byte link[PAGES];
byte leaf[NODES + 1];
short pins[NODES + 1];

/* Owner of the bytes in a frame: page + 1, or 0 for poison. */
byte owner[FRAMES + 1];

/* Entries cleared and unlinked with plain stores: a section from before the bump may still load them. */
byte old_link[PAGES];
bit bumped;
bit inside[READERS];
/* Set if the section was open at the bump: the drain waits for it. */
bit blocking[READERS];

/* Only the writer sleeps, on the pin word of `sleeping_on`. There are no time-outs: a lost wake-up is a deadlock. */
bit asleep;
byte sleeping_on;

#ifdef LIVENESS
bit unmapping;
ltl every_unmap_ends { [] (unmapping -> <> !unmapping) }
#endif
#ifdef BACK_OFF
#define MAY_TRY (!failed || !unmapping)
#else
#define MAY_TRY true
#endif

inline wake(entry) {
  if
  :: asleep && sleeping_on == entry -> asleep = 0; sleeping_on = 0
  :: else
  fi
}

proctype Reader(byte me) {
  byte page, entry, frame;
  /* Frame that this reader has pinned for each page, as PinTableReader.pin returned it. */
  byte held[PAGES];
  short before;
  bit failed;

idle:
  do
  :: atomic { held[0] == 0 && MAY_TRY -> page = 0; inside[me] = 1; failed = 0; goto walk_leaf }
  :: atomic { held[0] != 0 -> page = 0; inside[me] = 1; goto find_again }
#ifndef LIVENESS
     /* The claim assumes that a held pin is dropped at once: it has one page and no uses. */
  :: atomic { held[1] == 0 -> page = 1; inside[me] = 1; goto walk_leaf }
  :: atomic { held[1] != 0 -> page = 1; inside[me] = 1; goto find_again }
     /* A use: at any time while the pin is held, outside any section. */
  :: atomic { held[0] != 0 -> assert(owner[held[0]] == 1) }
  :: atomic { held[1] != 0 -> assert(owner[held[1]] == 2) }
#endif
  :: held[0] == 0 && held[1] == 0 -> break
  od;
  goto stopped;

walk_leaf:
  /* Walk to the leaf: a stale link leads to an entry whose frame word may also be stale. */
  atomic {
    if
    :: link[page] != 0 && leaf[link[page]] != 0 -> entry = link[page]
    :: link[page] == 0 || leaf[link[page]] == 0 -> goto leave
    :: old_link[page] != 0 && (!bumped || blocking[me]) -> entry = old_link[page]
    fi
  }
#ifdef CHECK_BEFORE_ADD
  if
  :: (pins[entry] & PIN_VALID) == 0 -> entry = 0; goto leave
  :: else
  fi;
#endif
pin_inc:
  atomic {
    before = pins[entry];
    pins[entry] = pins[entry] + PIN_ONE;
#ifdef CHECK_BEFORE_ADD
    before = 0;
    goto walk_frame;
#endif
    if
    :: before & PIN_VALID -> before = 0; goto walk_frame
    :: else -> before = 0
    fi
  }
#ifdef NO_UNDO
  entry = 0;
  goto leave;
#endif
pin_undo:
  atomic {
#ifdef BACK_OFF
    failed = 1;
#endif
    before = pins[entry];
    assert(before >= PIN_ONE);
    pins[entry] = pins[entry] - PIN_ONE;
    if
    :: before == PIN_ONE -> before = 0
    :: else -> before = 0; entry = 0; goto leave
    fi
  }
pin_undo_wake:
  atomic {
#ifndef LOST_UNDO_NOTIFY
    wake(entry);
#endif
    entry = 0;
    goto leave
  }

walk_frame:
  /* Plain, but after an atomic operation that read the valid bit: not older than the map that set it. */
  atomic {
    frame = leaf[entry];
    assert(frame != 0);
    held[page] = frame;
    frame = 0;
    entry = 0;
    goto leave
  }

find_again:
  /* The unpin's own walk: the pin keeps the entry in place. */
  atomic {
    entry = link[page];
    assert(entry != 0 && leaf[entry] == held[page]);
    held[page] = 0
  }
unpin_dec:
  atomic {
    before = pins[entry];
    assert(before >= PIN_ONE);
    pins[entry] = pins[entry] - PIN_ONE;
    if
    :: before == PIN_ONE -> before = 0
    :: else -> before = 0; entry = 0; goto leave
    fi
  }
unpin_wake:
  atomic {
#ifndef LOST_NOTIFY
    wake(entry);
#endif
    entry = 0
  }

leave:
  atomic { inside[me] = 0; blocking[me] = 0; page = 0; goto idle }
stopped:
  skip
}

proctype Writer() {
  byte page, entry, frame;
  byte pages; /* pages of this unmap, one bit each */
  byte todo; /* pages that the current step has not yet visited */
  byte pinned; /* pages that had pins when they were invalidated */
  byte retired, freed; /* entries and frames that this unmap frees, one bit each */
  bit used[NODES + 1];
  short word;

idle:
  do
  :: atomic { link[0] == 0 -> page = 0; goto map_link }
  :: atomic { link[0] != 0 -> pages = 1; todo = 1; goto unmap_invalidate }
#ifndef LIVENESS
  :: atomic { link[1] == 0 -> page = 1; goto map_link }
  :: atomic { link[1] != 0 -> pages = 2; todo = 2; goto unmap_invalidate }
  :: atomic { link[0] != 0 && link[1] != 0 -> pages = 3; todo = 3; goto unmap_invalidate }
#endif
  :: break
  od;
  goto stopped;

map_link:
  /* Any free entry and any free frame, as from a free list in any order. The owner is written to the frame first. */
  atomic {
    if
    :: !used[1] -> entry = 1
    :: !used[2] -> entry = 2
    fi;
    if
    :: owner[1] == 0 -> frame = 1
    :: owner[2] == 0 -> frame = 2
    fi;
    used[entry] = 1;
    owner[frame] = page + 1;
    link[page] = entry
  }
map_frame:
  atomic { leaf[entry] = frame; frame = 0 }
map_valid:
  atomic {
#ifdef STORE_FOR_OR
    pins[entry] = PIN_VALID;
#else
    pins[entry] = pins[entry] | PIN_VALID;
#endif
    page = 0;
    entry = 0;
    goto idle
  }

unmap_invalidate:
  atomic {
#ifdef LIVENESS
    unmapping = 1;
#endif
    page = (todo & 1 -> 0 : 1);
    entry = link[page];
    word = pins[entry];
#ifdef STORE_FOR_AND
  }
  atomic {
    pins[entry] = word & ~PIN_VALID;
#else
    pins[entry] = pins[entry] & ~PIN_VALID;
#endif
    if
    :: (word & ~PIN_VALID) != 0 -> pinned = pinned | (1 << page)
    :: else
    fi;
    word = 0;
    entry = 0;
    todo = todo & ~(1 << page);
    page = 0;
    if
    :: todo != 0 -> goto unmap_invalidate
    :: else
    fi
  }
#ifdef EARLY_CLEAR
  atomic { todo = pages; goto unmap_clear };
#endif

  /* Mapping by mapping: while pins are held, sleep on the word with the value that was loaded. */
unmap_pincount:
  atomic {
    if
    :: pinned == 0 -> todo = pages; goto unmap_clear
    :: else -> page = (pinned & 1 -> 0 : 1); entry = link[page]
    fi;
    word = pins[entry];
    if
    :: word == 0 -> pinned = pinned & ~(1 << page); page = 0; entry = 0; goto unmap_pincount
    :: else
    fi
  }
unmap_pinwait:
  /* The comparison and the sleep are one operation, as in a futex. */
  atomic {
    if
    :: pins[entry] == word -> asleep = 1; sleeping_on = entry
    :: else
    fi;
    word = 0;
    entry = 0;
    page = 0
  }
  atomic { !asleep -> goto unmap_pincount }

unmap_clear:
  atomic {
    page = (todo & 1 -> 0 : 1);
    entry = link[page];
    old_link[page] = entry;
    freed = freed | (1 << leaf[entry]);
    leaf[entry] = 0
  }
unmap_unlink:
  atomic {
    retired = retired | (1 << entry);
    link[page] = 0;
    todo = todo & ~(1 << page);
    page = 0;
    entry = 0;
    if
    :: todo != 0 -> goto unmap_clear
    :: else
    fi
  }
unmap_bump:
  atomic {
    bumped = 1;
    blocking[0] = inside[0];
    blocking[1] = inside[1]
  }
  /* The drain, then the end of the unmap: entries may be reused, and frames are poisoned at once. */
  atomic {
    !blocking[0] && !blocking[1];
    /* An entry that returns to the free list must be zero. */
    assert(!(retired & 2) || pins[1] == 0);
    assert(!(retired & 4) || pins[2] == 0);
#ifdef LIVENESS
    unmapping = 0;
#endif
    bumped = 0;
    pinned = 0;
    pages = 0;
    old_link[0] = 0;
    old_link[1] = 0;
    used[1] = used[1] && !(retired & 2);
    used[2] = used[2] && !(retired & 4);
    if
    :: freed & 2 -> owner[1] = 0
    :: else
    fi;
    if
    :: freed & 4 -> owner[2] = 0
    :: else
    fi;
    retired = 0;
    freed = 0;
    goto idle
  }
stopped:
  skip
}

init {
  atomic {
    run Reader(0);
    run Reader(1);
    run Writer()
  }
}
