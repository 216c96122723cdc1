/*
 * Short DMA: dmaEnter, lookups, dmaExit against clear, bump, drain, reuse (src/pin-table/protocol.ts, writer.ts).
 *
 * Labels are the site names of src/platform/schedule-points.ts with underscores for dots; test/unit/proofs.test.ts
 * compares them. Runs are unbounded: readers open sections, and the writer maps and unmaps, any number of times. Each
 * may stop forever between two operations. README.md states what is modelled and what is not.
 *
 * Mutants, one -D each: NO_BUMP LATE_EPOCH SKIPPED_READER LOST_NOTIFY NO_CONFIRM LATE_WAITING EARLY_REUSE.
 * With STRONG_MEMORY, a plain load always returns the newest value. ROUNDS=n limits the writer to n unmaps.
 * LIVENESS adds the claim that every unmap ends.
 */
#define READERS 2
#define PAGES 2
#define NODES 2
#define FRAMES 2
/* Count of uses in one section. */
#define LOOKUPS 2
#define OUTSIDE 0
/* Odd, as in the code. It wraps after four rounds instead of 2^31, which shows more collisions, not fewer. */
#define NEXT(g) ((g + 2) % 8)

byte generation = 1;
byte epoch[READERS];
bit writer_waiting;

/* The radix: page -> node -> frame; 0 means none. Nodes and frames are numbered from 1. */
byte link[PAGES];
byte leaf[NODES + 1];

/* Owner of the bytes in a frame: page + 1, or 0 for poison. A use must find its own page's bytes. */
byte owner[FRAMES + 1];

/*
 * Plain stores and loads. The clearing stores are plain: until the bump publishes them, a reader may miss them.
 * `..._pending` is a cleared value that no bump has published yet. `..._seen` is a value that a reader may still load
 * instead of the newest one (0 for none). A load of the generation makes the published stores visible to a reader.
 */
byte link_pending[PAGES];
byte leaf_pending[NODES + 1];
byte link_seen[READERS * PAGES];
byte leaf_seen[READERS * 3];
/* Set while the reader's section is open. Only then it loads, so only then stale values matter. */
bit inside[READERS];

/* Only the writer sleeps, on the epoch of `sleeping_on`. There are no time-outs: a lost wake-up is a deadlock. */
bit asleep;
byte sleeping_on;

#ifdef LIVENESS
bit unmapping;
ltl every_unmap_ends { [] (unmapping -> <> !unmapping) }
#endif

inline synchronise(me) {
  d_step {
    link_seen[me * PAGES] = link_pending[0];
    link_seen[me * PAGES + 1] = link_pending[1];
    leaf_seen[me * 3 + 1] = leaf_pending[1];
    leaf_seen[me * 3 + 2] = leaf_pending[2];
  }
}

/* Outside a section nothing is loaded, so the stale values are cleared to keep the states few. */
inline forget(me) {
  d_step {
    link_seen[me * PAGES] = 0;
    link_seen[me * PAGES + 1] = 0;
    leaf_seen[me * 3 + 1] = 0;
    leaf_seen[me * 3 + 2] = 0;
  }
}

proctype Reader(byte me) {
  byte cached = OUTSIDE;
  byte now, page, node, frame, lookups;

  do
  :: lookups = LOOKUPS;
#ifdef LATE_EPOCH
     goto walk_root;
#endif

#ifdef NO_CONFIRM
     /* "Store the epoch, then plain loads": the stored generation was loaded just before. */
     cached = generation;
#endif
dma_enter_publish:
     epoch[me] = cached;
dma_enter_confirm:
#ifdef NO_CONFIRM
     inside[me] = 1;
#else
     atomic {
       now = generation;
       if
       :: now == cached -> synchronise(me); inside[me] = 1; now = 0
       :: else -> cached = now; now = 0; goto dma_enter_publish
       fi
     }
#endif
#ifdef LATE_EPOCH
     goto use;
#endif
#ifdef LIVENESS
     /* The end of an unmap does not depend on what a section loads. Without the walks, the check is fast. */
     goto dma_exit_publish;
#endif

walk_root:
     atomic {
       if
       :: page = 0
       :: page = 1
       fi;
       if
       :: node = link[page]
#ifndef STRONG_MEMORY
       :: link_seen[me * PAGES + page] != 0 -> node = link_seen[me * PAGES + page]
#endif
       fi
     }
walk_leaf:
     atomic {
       if
       :: node != 0 -> frame = leaf[node]
#ifndef STRONG_MEMORY
       :: node != 0 && leaf_seen[me * 3 + node] != 0 -> frame = leaf_seen[me * 3 + node]
#endif
       :: node == 0 -> frame = 0
       fi;
       node = 0
     }
#ifdef LATE_EPOCH
     if
     :: !inside[me] -> goto dma_enter_publish
     :: else
     fi;
#endif

use:
     atomic {
       if
       :: frame != 0 -> assert(owner[frame] == page + 1)
       :: else
       fi;
       frame = 0;
       page = 0;
       lookups--;
       if
       :: lookups > 0 -> goto walk_root
       :: lookups = 0
       fi
     }

dma_exit_publish:
     atomic {
       epoch[me] = OUTSIDE;
       inside[me] = 0;
#ifndef NO_CONFIRM
       forget(me)
#endif
     }
dma_exit_waiting:
     if
     :: writer_waiting == 0 -> goto done
     :: else
     fi;
dma_exit_wake:
     atomic {
#ifndef LOST_NOTIFY
       if
       :: asleep && sleeping_on == me -> asleep = 0; sleeping_on = 0
       :: else
       fi
#endif
       skip
     }
done:
     skip

  :: break
  od
}

proctype Writer() {
  byte page, node, frame, slot, seen;
  byte pages; /* pages of this unmap, one bit each */
  byte retired, freed; /* nodes and frames that this unmap frees, one bit each */
  bit used_nodes[NODES + 1];
#ifdef ROUNDS
  byte rounds;
#define MAY_UNMAP (rounds < ROUNDS)
#else
#define MAY_UNMAP true
#endif

idle:
  do
  :: atomic { link[0] == 0 -> page = 0; goto map_link }
  :: atomic { MAY_UNMAP && link[0] != 0 -> pages = 1; page = 0; goto begin }
#ifndef LIVENESS
  :: atomic { link[1] == 0 -> page = 1; goto map_link }
  :: atomic { MAY_UNMAP && link[1] != 0 -> pages = 2; page = 1; goto begin }
  :: atomic { MAY_UNMAP && link[0] != 0 && link[1] != 0 -> pages = 3; page = 0; goto begin }
#endif
  :: break
  od;
  goto stopped;

map_link:
     /* Any free node and any free frame, as from a free list in any order. The owner is written to the frame first. */
     atomic {
       if
       :: !used_nodes[1] -> node = 1
       :: !used_nodes[2] -> node = 2
       fi;
       if
       :: owner[1] == 0 -> frame = 1
       :: owner[2] == 0 -> frame = 2
       fi;
       used_nodes[node] = 1;
       owner[frame] = page + 1;
       link[page] = node
     }
map_frame:
     atomic { leaf[node] = frame; page = 0; node = 0; frame = 0; goto idle }

begin:
#ifdef LIVENESS
     unmapping = 1;
#endif
unmap_clear:
     atomic {
       node = link[page];
       frame = leaf[node];
       leaf_pending[node] = frame;
       for (slot : 0 .. READERS - 1) {
         if
         :: inside[slot] -> leaf_seen[slot * 3 + node] = frame
         :: else
         fi
       }
       slot = 0;
       leaf[node] = 0;
       freed = freed | (1 << frame);
       frame = 0
     }
unmap_unlink:
     atomic {
       link_pending[page] = node;
       for (slot : 0 .. READERS - 1) {
         if
         :: inside[slot] -> link_seen[slot * PAGES + page] = node
         :: else
         fi
       }
       slot = 0;
       link[page] = 0;
       retired = retired | (1 << node);
       node = 0;
       pages = pages & ~(1 << page);
       page = 0;
       if
       :: pages != 0 -> page = 1; goto unmap_clear
       :: else
       fi
     }
unmap_bump:
     atomic {
#ifndef NO_BUMP
       generation = NEXT(generation);
#endif
       link_pending[0] = 0;
       link_pending[1] = 0;
       leaf_pending[1] = 0;
       leaf_pending[2] = 0
     }
#ifdef EARLY_REUSE
     goto reclaim;
#endif

     /* waitDrained: loads the epoch, raises the flag, loads again, sleeps on the value it loaded. */
unmap_epoch:
     atomic {
       seen = epoch[slot];
       if
       :: seen == OUTSIDE || seen == generation -> seen = 0; goto next_reader
       :: else
       fi;
#ifdef LATE_WAITING
       goto unmap_epochwait;
#endif
       if
       :: writer_waiting -> goto load_again
       :: else
       fi
     }
unmap_waiting:
     writer_waiting = 1;
load_again:
     atomic {
       seen = epoch[slot];
       if
       :: seen == OUTSIDE || seen == generation -> seen = 0; goto next_reader
       :: else
       fi
     }
unmap_epochwait:
     /* The comparison and the sleep are one operation, as in a futex. */
     atomic {
       if
       :: epoch[slot] == seen -> asleep = 1; sleeping_on = slot
       :: else
       fi;
       seen = 0
     }
#ifdef LATE_WAITING
     writer_waiting = 1;
#endif
     atomic { !asleep -> slot = 0; goto unmap_epoch }
next_reader:
     atomic {
       slot++;
       if
#ifdef SKIPPED_READER
       :: slot < READERS - 1 -> goto unmap_epoch
#else
       :: slot < READERS -> goto unmap_epoch
#endif
       :: else -> slot = 0
       fi
     }
     writer_waiting = 0;

reclaim:
     /* The unmap is complete: nodes may be reused, and frames are poisoned at once. */
     atomic {
       slot = 0;
       used_nodes[1] = used_nodes[1] && !(retired & 2);
       used_nodes[2] = used_nodes[2] && !(retired & 4);
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
#ifdef LIVENESS
       unmapping = 0;
#endif
#ifdef ROUNDS
       rounds++;
#endif
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
