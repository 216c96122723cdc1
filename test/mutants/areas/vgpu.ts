/**
 * Mutants of the vgpu: device, engines together, display.
 */
import type { Mutant } from '../mutant.ts';

const MODEL = 'src/models/vgpu/vgpu.ts';
const DISPLAY = 'src/models/vgpu/display.ts';
const ENGINES = 'src/models/vgpu/engine/engines.ts';

const COMMANDS = ['test/unit/vgpu-commands.test.ts'];
const ENGINE_TESTS = ['test/unit/vgpu-engines.test.ts'];
const FENCES = ['test/unit/vgpu-fences.test.ts'];
const PCI = ['test/unit/vgpu-pci.test.ts'];
const PINS = ['test/unit/vgpu-pins.test.ts'];
const VRAM = ['test/unit/vgpu-vram.test.ts'];

export const VGPU_MUTANTS: readonly Mutant[] = [
  {
    id: 'vgpu/close-keeps-pins',
    file: MODEL,
    find: `    this.#engines.close();
    this.#spaces.dropAll();`,
    replace: '    this.#engines.close();',
    why: 'A stopped device leaves its pins.',
    killedBy: PINS,
  },
  {
    id: 'vgpu/close-keeps-engine',
    file: ENGINES,
    find: `    this.#setTimer(undefined);
    this.release();`,
    replace: '    this.#setTimer(undefined);',
    why: 'A device that closes keeps the engine of its GPU, and its neighbours wait for the lease.',
    killedBy: ['test/unit/engine-slot-migration.test.ts'],
  },
  {
    id: 'vgpu/no-bus-master-keeps-engine',
    file: MODEL,
    find: `    this.#engines.release();
    return 'idle';`,
    replace: `    return 'idle';`,
    why: 'A vGPU without Bus Master Enable runs nothing and keeps the engine.',
    killedBy: ['test/unit/engine-slot-migration.test.ts'],
  },
  {
    id: 'vgpu/suspend-keeps-engine',
    file: MODEL,
    find: `  suspend(): void {
    this.#engines.release();`,
    replace: '  suspend(): void {',
    why: 'A vGPU that stops for its migration keeps the engine.',
    killedBy: ['test/unit/engine-slot-migration.test.ts'],
  },
  {
    id: 'vgpu/idle-keeps-engine',
    file: ENGINES,
    find: `      this.#slot?.release();
      return polled;`,
    replace: '      return polled;',
    why: 'A vGPU without work keeps the engine.',
    killedBy: ['test/unit/engine-slot-migration.test.ts'],
  },
  {
    id: 'vgpu/stall-keeps-engine',
    file: ENGINES,
    find: 'const more = !stalled && this.#streamers.some(hasWork);',
    replace: 'const more = this.#streamers.some(hasWork);',
    why: 'A vGPU that stalls for a switch keeps the engine.',
    killedBy: ['test/unit/engine-slot-migration.test.ts'],
  },
  {
    id: 'vgpu/stall-blocks-other-engine',
    file: ENGINES,
    find: 'return !second || second === first || this.#piece(second);',
    replace: 'return second === first || second !== undefined || true;',
    why: 'An engine that stalls keeps the other one from its work.',
    killedBy: ENGINE_TESTS,
  },
  {
    id: 'vgpu/no-alternation',
    file: ENGINES,
    find: '(this.#streamers.indexOf(streamer) + 1) % this.#streamers.length',
    replace: 'this.#streamers.indexOf(streamer) % this.#streamers.length',
    why: 'An engine with endless work starves the other.',
    killedBy: ENGINE_TESTS,
  },
  {
    id: 'vgpu/end-wakes-no-fence',
    file: ENGINES,
    find: '    if (ended) for (const each of this.#streamers) if (each !== streamer) each.engine.recheckFences();\n',
    replace: '',
    why: 'A wait does not notice the signal of the other engine.',
    killedBy: FENCES,
  },
  {
    id: 'vgpu/retry-without-timer-reset',
    file: ENGINES,
    find: `        this.#retryScheduled = false;
`,
    replace: '',
    why: 'A vGPU whose share is used up retries once and then never again.',
    killedBy: ['test/unit/engine-slot-migration.test.ts'],
  },
  {
    id: 'vgpu/fence-timer-lost-at-restore',
    file: ENGINES,
    find: 'this.#setTimer(this.#streamers.some(waits) ? leftUs : undefined);',
    replace: 'this.#setTimer(undefined);',
    why: 'A wait that migrates is polled too late or never.',
    killedBy: FENCES,
  },
  {
    id: 'vgpu/doorbell-wakes-no-fence',
    file: MODEL,
    find: 'doorbellRung: () => this.#engines.recheckFences(),',
    replace: 'doorbellRung: () => {},',
    why: 'A doorbell does not recheck fences.',
    killedBy: FENCES,
  },
  {
    id: 'vgpu/interrupt-although-masked',
    file: MODEL,
    find: "const unmasked = cause & ~this.#registers.get32('InterruptMask');",
    replace: 'const unmasked = cause;',
    why: 'A masked cause interrupts.',
    killedBy: COMMANDS,
  },
  {
    id: 'vgpu/withdraws-nothing',
    file: MODEL,
    find: 'if ((status & causes) === 0) this.#msix.withdraw(vector);',
    replace: 'if (status === 0) this.#msix.withdraw(vector);',
    why: 'A vector stays pending although its causes are acknowledged.',
    killedBy: PCI,
  },
  {
    id: 'vgpu/function-reset-keeps-vram',
    file: MODEL,
    find: '    this.#vram.clear();\n',
    replace: '',
    why: 'The next owner of the device reads the VRAM of the last.',
    killedBy: PCI,
  },
  {
    id: 'vgpu/reset-keeps-spaces',
    file: MODEL,
    find: `    this.#spaces.reset();
    for (const`,
    replace: '    for (const',
    why: 'A reset keeps shadows and pins.',
    killedBy: PINS,
  },
  {
    id: 'vgpu/reset-keeps-display',
    file: MODEL,
    find: `    this.#withdrawInterrupts();
    this.#display.reset();`,
    replace: '    this.#withdrawInterrupts();',
    why: 'Frames end after a reset.',
    killedBy: VRAM,
  },
  {
    id: 'vgpu/restore-without-contexts',
    file: MODEL,
    find: `    this.#spaces.setRoot(this.#registers.get('PageTableBase'));
    this.#takeContexts();`,
    replace: "    this.#spaces.setRoot(this.#registers.get('PageTableBase'));",
    why: 'A migrated device has no contexts.',
    killedBy: ['test/unit/gpu-driver.test.ts'],
  },
  {
    id: 'vgpu/restore-without-root',
    file: MODEL,
    find: `    this.#engines.restore(state);
    this.#spaces.setRoot(this.#registers.get('PageTableBase'));`,
    replace: '    this.#engines.restore(state);',
    why: 'A migrated device has no page table of context 0.',
    killedBy: ['test/unit/gpu-driver.test.ts'],
  },
  {
    id: 'vgpu/flip-at-once',
    file: DISPLAY,
    find: 'else this.#setStatus(DISPLAY_ON | DISPLAY_FLIP_PENDING);',
    replace: 'else this.#show();',
    why: 'A flip tears the frame.',
    killedBy: VRAM,
  },
  {
    id: 'vgpu/frames-while-off',
    file: DISPLAY,
    find: 'if (status !== DISPLAY_ON) this.#stop();\n    else if',
    replace: 'if',
    why: 'Frames end while the display is off.',
    killedBy: VRAM,
  },
  {
    id: 'vgpu/missed-frames-uncounted',
    file: DISPLAY,
    find: "this.#registers.get32('DisplayFrame') + 1 + missed",
    replace: "this.#registers.get32('DisplayFrame') + 1",
    why: 'A late thread loses frames.',
    killedBy: VRAM,
  },
  {
    id: 'vgpu/picture-while-off',
    file: DISPLAY,
    find: 'const mode = this.#isOn ? this.#mode() : undefined;',
    replace: 'const mode = this.#mode();',
    why: 'A display that is off shows a picture.',
    killedBy: VRAM,
  },
  {
    id: 'vgpu/stride-below-width',
    file: DISPLAY,
    find: 'stride % PIXEL_BYTES === 0 && stride >= width * PIXEL_BYTES &&',
    replace: 'stride % PIXEL_BYTES === 0 &&',
    why: 'Lines overlap.',
    killedBy: VRAM,
  },
  {
    id: 'vgpu/display-restores-beyond-vram',
    file: DISPLAY,
    find: "if (!this.#mode() || !this.#fits(Number(this.#registers.get('DisplaySurface'))))",
    replace: 'if (!this.#mode())',
    why: 'A restored display reads beyond VRAM.',
    killedBy: ['test/unit/vgpu-state.test.ts'],
  },
];
