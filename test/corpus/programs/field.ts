/**
 * Faults of virtual IOMMUs, mediated devices and their managers, rebuilt from public fixes as small programs on shared words:
 * one function for the order of steps with the fault, and without it.
 */
import {
  add,
  and,
  cas,
  ensure,
  explore,
  ld,
  or,
  peek,
  type SharedWords,
  st,
  waitEq,
  wake,
  wordsOf,
} from '../../../src/explore/sdk.ts';

const words = (): SharedWords => wordsOf(new SharedArrayBuffer(256));
const WAIT_MS = 1000;

/** Page table entry, its cached copy, the frame that an entry of 1 leads to, and requests. */
const [ENTRY, CACHE, REUSED, ASKED, ENDED] = [0, 1, 2, 3, 4];

/** An IOTLB entry is filled again between the edit of the table and the invalidation. */
const refill = (editFirst: boolean) =>
  explore({
    setup: () => {
      const w = words();
      st(w, ENTRY, 1, 'entry');
      return w;
    },
    threads: {
      driver: (w) => {
        if (editFirst) st(w, ENTRY, 0, 'entry.clear');
        st(w, CACHE, 0, 'iotlb.invalidate');
        if (!editFirst) st(w, ENTRY, 0, 'entry.clear');
        // The wait for the device's translations in flight.
        while (ld(w, ASKED, 'iotlb.busy') !== 0) waitEq(w, ASKED, 1, WAIT_MS, 'iotlb.drain');
        st(w, REUSED, 1, 'frame.reuse');
      },
      device: (w) => {
        for (let i = 0; i < 2; i++) {
          st(w, ASKED, 1, 'dma.begin');
          let frame = ld(w, CACHE, 'iotlb.look');
          if (frame === 0) {
            frame = ld(w, ENTRY, 'walk');
            if (!editFirst || frame !== 0) st(w, CACHE, frame, 'iotlb.fill');
          }
          if (frame !== 0)
            ensure(
              ld(w, REUSED, 'dma.use') === 0,
              'R6',
              'a stale translation is used after its invalidation',
            );
          if (editFirst) st(w, CACHE, 0, 'iotlb.drop');
          st(w, ASKED, 0, 'dma.end');
          wake(w, ASKED, 'dma.wake');
        }
      },
    },
  });
export const refilled = refill(false);
export const refillGuarded = refill(true);

/** A shadow entry is kept when the guest maps another page at the same address. */
const shadow = (checksAgain: boolean) =>
  explore({
    setup: () => {
      const w = words();
      st(w, ENTRY, 1, 'entry');
      return w;
    },
    threads: {
      device: (w) => {
        const frame = ld(w, ENTRY, 'shadow.read');
        st(w, CACHE, frame, 'shadow.write');
        if (checksAgain && ld(w, ENTRY, 'shadow.again') !== frame) st(w, CACHE, 0, 'shadow.drop');
      },
      guest: (w) => {
        st(w, ENTRY, 2, 'entry.remap');
        cas(w, CACHE, 1, 0, 'shadow.invalidate');
      },
    },
    check: (w) => {
      const found = peek(w, CACHE);
      ensure(
        found === 0 || found === 2,
        'R6',
        () => `the shadow entry leads to frame ${found} after the remap to 2`,
      );
    },
  });
export const shadowKept = shadow(false);
export const shadowChecked = shadow(true);

/** A fault record is a group of words: a reader that takes its valid bit first reads it in part. */
const faults = (validLast: boolean) =>
  explore({
    setup: words,
    threads: {
      iommu: (w) => {
        if (!validLast) st(w, 10, 1, 'fault.valid');
        st(w, 8, 7, 'fault.address');
        st(w, 9, 7, 'fault.reason');
        if (validLast) st(w, 10, 1, 'fault.valid');
      },
      guest: (w) => {
        if (ld(w, 10, 'fault.look') === 0) return;
        const [address, reason] = [ld(w, 8, 'fault.read'), ld(w, 9, 'fault.read')];
        ensure(address === 7 && reason === 7, 'whole record', () => `address ${address}, reason ${reason}`);
      },
    },
  });
export const faultPartly = faults(false);
export const faultWhole = faults(true);

/** Two writers choose a type by its capacity: both see the last instance. */
const capacity = (atomic: boolean) =>
  explore({
    setup: () => {
      const w = words();
      st(w, ENTRY, 1, 'available');
      return w;
    },
    threads: Object.fromEntries(
      ['one', 'two'].map((name) => [
        name,
        (w: SharedWords) => {
          if (atomic) {
            for (let left = ld(w, ENTRY, 'available.look'); left > 0; left = ld(w, ENTRY, 'available.look'))
              if (cas(w, ENTRY, left, left - 1, 'available.take') === left) return add(w, CACHE, 1, 'create');
            return;
          }
          if (ld(w, ENTRY, 'available.look') === 0) return;
          add(w, ENTRY, -1, 'available.take');
          add(w, CACHE, 1, 'create');
        },
      ]),
    ),
    check: (w) =>
      ensure(
        peek(w, CACHE) <= 1,
        'capacity',
        () => `${peek(w, CACHE)} instances of a type that has room for 1`,
      ),
  });
export const capacityTwice = capacity(false);
export const capacityOnce = capacity(true);

/** A late release clears the device of the next owner. The owner word has the owner's number. */
const release = (compares: boolean) =>
  explore({
    setup: () => {
      const w = words();
      st(w, ENTRY, 1, 'owner');
      return w;
    },
    threads: {
      first: (w) => {
        if (ld(w, ENTRY, 'owner.look') !== 1) return;
        if (compares) cas(w, ENTRY, 1, 0, 'owner.clear');
        else st(w, ENTRY, 0, 'owner.clear');
      },
      manager: (w) => {
        // Takes the device from an owner that is silent.
        if (cas(w, ENTRY, 1, 0, 'owner.revoke') === 1 || ld(w, ENTRY, 'owner.look') === 0)
          if (cas(w, ENTRY, 0, 2, 'owner.take') === 0) st(w, CACHE, 1, 'second.has');
      },
    },
    check: (w) =>
      ensure(
        peek(w, CACHE) === 0 || peek(w, ENTRY) === 2,
        'owner kept',
        'the device of the second owner was cleared',
      ),
  });
export const releaseLate = release(false);
export const releaseCompared = release(true);

/** The hand-over of a migration runs twice: by the answer, and by the time limit. */
const handOver = (once: boolean) =>
  explore({
    setup: words,
    threads: Object.fromEntries(
      ['answer', 'limit'].map((name) => [
        name,
        (w: SharedWords) => {
          if (once) {
            if (cas(w, ENTRY, 0, 1, 'handover.claim') !== 0) return;
          } else {
            if (ld(w, ENTRY, 'handover.look') !== 0) return;
            st(w, ENTRY, 1, 'handover.claim');
          }
          add(w, CACHE, 1, 'handover.run');
        },
      ]),
    ),
    check: (w) =>
      ensure(peek(w, CACHE) === 1, 'handed over once', () => `handed over ${peek(w, CACHE)} times`),
  });
export const handOverTwice = handOver(false);
export const handOverOnce = handOver(true);

/** A request for a device is lost: the bits of requests are cleared by a store, with one that came meanwhile. */
const request = (exact: boolean) =>
  explore({
    setup: words,
    threads: {
      host: (w) => {
        or(w, ASKED, 2, 'request.post');
        wake(w, ASKED, 'request.wake');
      },
      guest: (w) => {
        or(w, ASKED, 1, 'request.post');
        wake(w, ASKED, 'request.wake');
      },
      driver: (w) => {
        for (let served = 0; served !== 3; ) {
          const asked = ld(w, ASKED, 'request.look');
          if (asked === 0) {
            waitEq(w, ASKED, 0, WAIT_MS, 'request.wait');
            continue;
          }
          if (exact) and(w, ASKED, ~asked, 'request.take');
          else st(w, ASKED, 0, 'request.take');
          served |= asked;
        }
      },
    },
  });
export const requestLost = request(false);
export const requestTaken = request(true);

/** The second of two notifiers is lost when one is removed while the list is read and written. */
const notifiers = (locked: boolean) =>
  explore({
    setup: () => {
      const w = words();
      // One bit for each notifier: 1 is there, and 2 comes while 1 goes.
      st(w, ENTRY, 1, 'notifiers');
      return w;
    },
    threads: {
      unplug: (w) => {
        if (locked) and(w, ENTRY, ~1, 'notifiers.remove');
        else st(w, ENTRY, ld(w, ENTRY, 'notifiers.look') & ~1, 'notifiers.remove');
      },
      plug: (w) => {
        if (locked) or(w, ENTRY, 2, 'notifiers.add');
        else st(w, ENTRY, ld(w, ENTRY, 'notifiers.look') | 2, 'notifiers.add');
      },
    },
    check: (w) => ensure(peek(w, ENTRY) === 2, 'notified', () => `notifiers ${peek(w, ENTRY)} instead of 2`),
  });
export const notifierLost = notifiers(false);
export const notifierKept = notifiers(true);

/** Pass-through goes off, and the replay is skipped: the device is attached before the domain's entries are read. */
const replays = (afterAttach: boolean) =>
  explore({
    setup: () => {
      const w = words();
      st(w, ENTRY, 1, 'entry');
      return w;
    },
    threads: {
      iommu: (w) => {
        if (afterAttach) st(w, ASKED, 1, 'attach');
        const found = ld(w, ENTRY, 'replay.read');
        or(w, CACHE, found, 'replay.map');
        if (!afterAttach) st(w, ASKED, 1, 'attach');
        st(w, ENDED, 1, 'replay.end');
      },
      guest: (w) => {
        or(w, ENTRY, 2, 'entry.map');
        // The notifier of a device that is attached.
        if (ld(w, ASKED, 'notify.look') === 1) or(w, CACHE, 2, 'notify.map');
      },
    },
    check: (w) =>
      ensure(peek(w, CACHE) === 3, 'mapped', () => `the device has mappings ${peek(w, CACHE)} of 3`),
  });
export const replaySkips = replays(false);
export const replayAttached = replays(true);

/** A pin is kept when a vGPU is destroyed while it pins. */
const destroy = (marksFirst: boolean) =>
  explore({
    setup: words,
    threads: {
      vgpu: (w) => {
        if (ld(w, ENDED, 'pin.alive') !== 0) return;
        add(w, ENTRY, 1, 'pin');
        if (marksFirst && ld(w, ENDED, 'pin.again') !== 0 && cas(w, CACHE, 0, 1, 'pin.drop') === 0)
          add(w, ENTRY, -1, 'unpin');
      },
      host: (w) => {
        st(w, ENDED, 1, 'destroy');
        if (marksFirst) {
          if (ld(w, ENTRY, 'destroy.look') > 0 && cas(w, CACHE, 0, 1, 'pin.drop') === 0)
            add(w, ENTRY, -1, 'unpin');
        } else if (ld(w, ENTRY, 'destroy.look') > 0) add(w, ENTRY, -1, 'unpin');
      },
    },
    check: (w) =>
      ensure(peek(w, ENTRY) === 0, 'pins balanced', () => `${peek(w, ENTRY)} pins of a destroyed vGPU`),
  });
export const destroyKeepsPin = destroy(false);
export const destroyDropsPin = destroy(true);
