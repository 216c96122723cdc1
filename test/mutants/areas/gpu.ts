/**
 * Mutants of the physical GPU: engine slots, policies, statistics.
 */
import type { Mutant } from '../mutant.ts';

const SLOT = 'src/gpu/engine-slot.ts';
const GPU = 'src/gpu/physical-gpu.ts';
const LAYOUT = 'src/gpu/layout.ts';
const POLICY = 'src/gpu/policy.ts';
const STATS = 'src/gpu/stats.ts';
const VM = 'src/coordinator/vm/vm.ts';
const CLOSE = 'src/coordinator/vm/close-devices.ts';

const SCHEDULER = ['test/unit/gpu-scheduler.test.ts'];
const VM_SLOTS = ['test/unit/vm-slots.test.ts'];
const LEASES = ['test/unit/engine-slot.test.ts'];

export const GPU_MUTANTS: readonly Mutant[] = [
  {
    id: 'gpu/release-keeps-share',
    file: GPU,
    find: "    st(words, slotWord(slot, SlotWord.share), 0, 'engine.slot');\n",
    replace: '',
    why: 'A slot whose vGPU has left is still chosen, if its last request comes late.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/release-keeps-owner',
    file: GPU,
    find: "    if ((owner & 0xff) === slot + 1) cas(words, GpuWord.owner, owner, 0, 'engine.owner');\n",
    replace: '',
    why: 'A vGPU that fails keeps the engine.',
    killedBy: SCHEDULER,
  },
  {
    id: 'gpu/release-frees-any-owner',
    file: GPU,
    find: "if ((owner & 0xff) === slot + 1) cas(words, GpuWord.owner, owner, 0, 'engine.owner');",
    replace: "cas(words, GpuWord.owner, owner, 0, 'engine.owner');",
    why: 'The end of one vGPU takes the engine from another.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/release-rings-nobody',
    file: GPU,
    find: 'if (link) ringDevice(link, RING_ENGINE);',
    replace: 'if (!link) break;',
    why: 'The neighbours of a failed vGPU sleep on.',
    killedBy: SCHEDULER,
  },
  {
    id: 'gpu/left-takes-memory',
    file: GPU,
    find: '    this.#left.add(slot);\n',
    replace: '',
    why: 'A vGPU that has left still takes memory and engine.',
    killedBy: SCHEDULER,
  },
  {
    id: 'gpu/left-slots-are-free',
    file: GPU,
    find: 'SLOTS_LIMIT - this.#occupants.length',
    replace: 'SLOTS_LIMIT - here.length',
    why: 'More vGPUs are placed than there are slots.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/hand-over-with-old-lease',
    file: SLOT,
    find: `    this.#term = FREE;
    this.#renew();
    st(`,
    replace: `    this.#term = FREE;
    st(`,
    why: 'A new owner is passed over for the lease of the old one.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/work-does-not-renew',
    file: SLOT,
    find: `    this.#renew();
    if (rules.turnEnds`,
    replace: '    if (rules.turnEnds',
    why: 'An owner at work loses the engine after a lease.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/passed-over-keeps-request',
    file: SLOT,
    find: "    and(this.#words, wantWord(silent), ~wantBit(silent), 'engine.want');\n",
    replace: '',
    why: 'A dead thread is handed the engine again and again.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/late-owner-works-on',
    file: SLOT,
    find: `      this.#term = FREE; // this slot was passed over
      return;`,
    replace: '',
    why: 'An owner that was passed over ends the turn of the next one.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/lease-one-early',
    file: SLOT,
    find: 'return ((this.#clockUs() - lease) | 0) > 0;',
    replace: 'return this.#clockUs() - lease > 0;',
    why: 'A lease that wraps at 2^32 µs is never over, or at once.',
    killedBy: SCHEDULER,
  },
  {
    id: 'gpu/release-keeps-request',
    file: SLOT,
    find: "      and(this.#words, wantWord(this.#slot), ~wantBit(this.#slot), 'engine.want');\n",
    replace: '',
    why: 'A slot without work is handed the engine.',
    killedBy: SCHEDULER,
  },
  {
    id: 'gpu/capped-slots-sleep',
    file: SLOT,
    find: '    if (next) this.#ring(next.slot); // that slot retries until it may run\n',
    replace: '',
    why: 'A slot whose share returns gets no doorbell when the engine becomes free.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/capped-slots-run',
    file: SLOT,
    find: `    if (next?.mayRun) {`,
    replace: '    if (next) {',
    why: 'A share is no cap on an idle engine.',
    killedBy: SCHEDULER,
  },
  {
    id: 'gpu/new-policy-keeps-accounts',
    file: SLOT,
    find: '    for (let slot = 0; slot < SLOTS_LIMIT; slot++) writeTime(words, slotWord(slot, SlotWord.virtual), clock);\n',
    replace: '',
    why: 'A new policy counts the time under the old one.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/idle-gap-unlimited',
    file: SLOT,
    find: 'Math.min(IDLE_GAP_US, Math.max(0, gapUs)) * 1000',
    replace: 'Math.max(0, gapUs) * 1000',
    why: 'A late thread costs other slots their shares.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/wait-restarts',
    file: SLOT,
    find: 'this.#since ??= readTimeRelaxed',
    replace: 'this.#since = readTimeRelaxed',
    why: 'A wait is measured from its last request.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/preempted-wait-uncounted',
    file: SLOT,
    find: `    this.#since = since;
    this.#bump(SlotWord.preemptions);`,
    replace: '    this.#bump(SlotWord.preemptions);',
    why: 'A preempted slot waits from its next request only.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/one-word-of-requests',
    file: LAYOUT,
    find: 'GpuWord.want + (slot >>> 5)',
    replace: 'GpuWord.want',
    why: 'Slots from 32 on request for others.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/time-of-one-word',
    file: LAYOUT,
    find: '  const high = Math.floor(value / TWO_32);\n',
    replace: '  const high = 0;\n',
    why: 'Engine time wraps after 4.3 s.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/bank-unlimited',
    file: POLICY,
    find: 'Math.max(virtual, clock - FIXED_BANK_NS)',
    replace: 'virtual',
    why: 'A slot saves its share without limit and then uses the engine alone.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/lag-unlimited',
    file: POLICY,
    find: 'Math.max(virtual, floor - EQUAL_LAG_SLICES * sliceNs)',
    replace: 'virtual',
    why: 'A slot that was idle starves the others under equal share.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/best-effort-preempts',
    file: POLICY,
    find: 'atCommandEnd && turnNs >= BEST_EFFORT_SLICES * sliceNs',
    replace: 'turnNs >= BEST_EFFORT_SLICES * sliceNs',
    why: 'Best effort preempts a command.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/usage-since-start',
    file: STATS,
    find: 'now.waits.map((count, i) => count - (then.waits[i] ?? 0))',
    replace: 'now.waits.map((count) => count)',
    why: 'Waits between two readings include those before.',
    killedBy: LEASES,
  },
  {
    id: 'gpu/failed-device-keeps-slot',
    file: VM,
    find: '    this.#slots.release(device);\n    if (pinsReleased',
    replace: '    if (pinsReleased',
    why: 'The engine place of a device that fails is never free again.',
    killedBy: VM_SLOTS,
  },
  {
    id: 'gpu/stopped-device-keeps-slot',
    file: CLOSE,
    find: '    vm.releaseSlot(device);\n',
    replace: '',
    why: 'The engine place of a device that stops is never free again.',
    killedBy: VM_SLOTS,
  },
];
