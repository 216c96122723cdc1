/*
 * Long pins through a leaf table: one pin on the link, then one on the leaf. The writer drops one leaf, or the whole
 * table after it has read only its link (src/pin-table/pin-counts.ts, writer.ts).
 *
 * Two pages share one link; a table has a leaf for each. Sections, stale links, labels and unbounded runs are as in
 * long-pin.pml. Pin word 0 is the link's; leaf `page` of table n is entry 2n - 1 + page.
 *
 * Mutants, one -D each: NO_LINK_PIN NO_UNDO LOST_NOTIFY NO_ZERO_CHECK.
 */
#define READERS 2
#define TABLES 2
#define FRAMES 3
#define LINK 0
#define ENTRIES 5
#define ENTRY(table, page) (2 * table - 1 + page)

#define PIN_VALID 1
#define PIN_ONE 2

byte link;
byte leaf[ENTRIES];
short pins[ENTRIES];

/* Owner of the bytes in a frame: page + 1, or 0 for poison. */
byte owner[FRAMES + 1];

/* Values that the writer cleared with plain stores: a section from before the bump may still load them. */
byte old_link;
byte old_leaf;
bit bumped;
bit inside[READERS];
/* Set if the section was open at the bump: the drain waits for it. */
bit blocking[READERS];

bit asleep;
byte sleeping_on;

inline wake(entry) {
  if
  :: asleep && sleeping_on == entry -> asleep = 0; sleeping_on = 0
  :: else
  fi
}

proctype Reader(byte me) {
  byte page, table, entry, frame;
  byte held[2];
  short before;

idle:
  do
  :: atomic { held[0] == 0 -> page = 0; inside[me] = 1; goto walk_mid }
  :: atomic { held[1] == 0 -> page = 1; inside[me] = 1; goto walk_mid }
  :: atomic { held[0] != 0 -> assert(owner[held[0]] == 1) }
  :: atomic { held[1] != 0 -> assert(owner[held[1]] == 2) }
  :: atomic { held[0] != 0 -> page = 0; inside[me] = 1; goto find_again }
  :: atomic { held[1] != 0 -> page = 1; inside[me] = 1; goto find_again }
  :: held[0] == 0 && held[1] == 0 -> break
  od;
  goto stopped;

walk_mid:
  atomic {
    if
    :: link != 0 -> table = link
    :: link == 0 -> goto leave
    :: old_link != 0 && (!bumped || blocking[me]) -> table = old_link
    fi;
#ifdef NO_LINK_PIN
    goto walk_leaf;
#endif
    table = 0;
    entry = LINK
  }

pin_inc:
  atomic {
    before = pins[entry];
    pins[entry] = pins[entry] + PIN_ONE;
    if
    :: (before & PIN_VALID) && entry == LINK -> before = 0; goto read_again
    :: (before & PIN_VALID) && entry != LINK -> before = 0; goto walk_frame
    :: else -> before = 0
    fi
  }
#ifdef NO_UNDO
  atomic { entry != LINK -> goto release_link };
  goto leave;
#endif
pin_undo:
  atomic {
    before = pins[entry];
    assert(before >= PIN_ONE);
    pins[entry] = pins[entry] - PIN_ONE;
    if
    :: before == PIN_ONE -> before = 0
    :: before != PIN_ONE && entry == LINK -> before = 0; goto leave
    :: else -> before = 0; goto release_link
    fi
  }
pin_undo_wake:
  atomic {
    wake(entry);
    if
    :: entry == LINK -> goto leave
    :: else -> goto release_link
    fi
  }

read_again:
  /* After the link's pin: not older than the map that made the link valid. */
  atomic {
    table = link;
#ifndef NO_ZERO_CHECK
    /* An emptied table is unlinked without a check of its link's count. */
    if
    :: table == 0 -> goto unpin_dec
    :: else
    fi
#endif
    skip
  }
walk_leaf:
  atomic {
    /* Table 0 is the header of the shared buffer: epochs, flags and the generation are not leaves. */
    assert(table != 0);
    entry = ENTRY(table, page);
    if
    :: leaf[entry] != 0 -> table = 0; goto pin_inc
    :: leaf[entry] == 0 -> table = 0; goto release_link
    :: old_leaf == entry && (!bumped || blocking[me]) -> table = 0; goto pin_inc
    fi
  }
walk_frame:
  atomic {
    frame = leaf[entry];
    if
    :: frame == 0 -> goto unpin_dec
    :: else -> held[page] = frame; frame = 0; goto leave
    fi
  }

find_again:
  atomic {
    assert(link != 0);
    entry = ENTRY(link, page);
    assert(leaf[entry] == held[page]);
    held[page] = 0
  }
  /* The leaf's pin, then the link's. */
unpin_dec:
  atomic {
    before = pins[entry];
    assert(before >= PIN_ONE);
    pins[entry] = pins[entry] - PIN_ONE;
    if
    :: before == PIN_ONE -> before = 0
    :: else -> before = 0; goto released
    fi
  }
unpin_wake:
#ifdef LOST_NOTIFY
  skip;
#else
  atomic { wake(entry) };
#endif
released:
  if
  :: entry == LINK -> goto leave
  :: else
  fi;
release_link:
  atomic {
#ifdef NO_LINK_PIN
    goto leave;
#endif
    entry = LINK;
    goto unpin_dec
  }

leave:
  atomic { inside[me] = 0; blocking[me] = 0; page = 0; table = 0; entry = 0; goto idle }
stopped:
  skip
}

proctype Writer() {
  byte page, table, entry, frame;
  bit mapped[2];
  bit whole; /* this unmap drops the whole table */
  byte freed; /* frames that this unmap frees, one bit each */
  byte retired; /* table that this unmap frees */
  short word;

idle:
  do
  :: atomic { !mapped[0] -> page = 0; goto map_frame }
  :: atomic { !mapped[1] -> page = 1; goto map_frame }
  :: atomic { mapped[0] -> page = 0; entry = ENTRY(link, 0); goto unmap_invalidate }
  :: atomic { mapped[1] -> page = 1; entry = ENTRY(link, 1); goto unmap_invalidate }
  :: atomic { link != 0 -> whole = 1; entry = LINK; goto unmap_invalidate }
  :: break
  od;
  goto stopped;

map_frame:
  atomic {
    if
    :: owner[1] == 0 -> frame = 1
    :: owner[1] != 0 && owner[2] == 0 -> frame = 2
    :: owner[1] != 0 && owner[2] != 0 -> frame = 3
    fi;
    owner[frame] = page + 1;
    mapped[page] = 1;
    if
    :: link != 0 -> entry = ENTRY(link, page); leaf[entry] = frame; frame = 0; goto map_valid
    :: link == 0 -> table = 1
    :: link == 0 -> table = 2
    fi;
    /* A new table is filled before it is linked, with plain stores. */
    entry = ENTRY(table, page);
    leaf[entry] = frame;
    pins[entry] = PIN_VALID;
    frame = 0;
    entry = LINK
  }
map_link:
  atomic { link = table; table = 0 }
map_valid:
  atomic {
    pins[entry] = pins[entry] | PIN_VALID;
    page = 0;
    entry = 0;
    goto idle
  }

unmap_invalidate:
  atomic {
    word = pins[entry];
    pins[entry] = pins[entry] & ~PIN_VALID;
    if
    :: (word & ~PIN_VALID) == 0 -> word = 0; goto unmap_clear
    :: else -> word = 0
    fi
  }
unmap_pincount:
  atomic {
    word = pins[entry];
    if
    :: word == 0 -> goto unmap_clear
    :: else
    fi
  }
unmap_pinwait:
  atomic {
    if
    :: pins[entry] == word -> asleep = 1; sleeping_on = entry
    :: else
    fi;
    word = 0
  }
  atomic { !asleep -> goto unmap_pincount }

unmap_clear:
  atomic {
    if
    :: whole ->
      /* The leaves are not visited: they stay unchanged in a table that no reader can reach. */
      freed = (1 << leaf[ENTRY(link, 0)]) | (1 << leaf[ENTRY(link, 1)]);
      mapped[0] = 0;
      mapped[1] = 0;
      old_link = link;
      retired = link;
      link = 0;
      whole = 0;
      entry = 0;
      goto unmap_bump
    :: else ->
      freed = 1 << leaf[entry];
      old_leaf = entry;
      leaf[entry] = 0;
      mapped[page] = 0;
      page = 0;
      entry = 0
    fi;
    if
    :: mapped[0] || mapped[1] -> goto unmap_bump
    :: else
    fi
  }
  /* The table is empty: its link is invalidated, without a wait for the pins that it may have. */
  pins[LINK] = pins[LINK] & ~PIN_VALID;
unmap_unlink:
  atomic { old_link = link; retired = link; link = 0 }
unmap_bump:
  atomic {
    bumped = 1;
    blocking[0] = inside[0];
    blocking[1] = inside[1]
  }
  /* The drain, then the end of the unmap: a table is wiped before it is reused, and frames are poisoned at once. */
  atomic {
    !blocking[0] && !blocking[1];
    bumped = 0;
    old_link = 0;
    old_leaf = 0;
    if
    :: retired != 0 ->
      entry = ENTRY(retired, 0);
      assert((pins[entry] & ~PIN_VALID) == 0 && (pins[entry + 1] & ~PIN_VALID) == 0);
      leaf[entry] = 0;
      leaf[entry + 1] = 0;
      pins[entry] = 0;
      pins[entry + 1] = 0;
      entry = 0;
      retired = 0
    :: else
    fi;
    if
    :: freed & 2 -> owner[1] = 0
    :: else
    fi;
    if
    :: freed & 4 -> owner[2] = 0
    :: else
    fi;
    if
    :: freed & 8 -> owner[3] = 0
    :: else
    fi;
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
