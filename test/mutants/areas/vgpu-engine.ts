/**
 * Mutants of a command engine of the vgpu: ring, commands, operations, saved commands.
 */
import type { Mutant } from '../mutant.ts';

const ENGINE = 'src/models/vgpu/engine/engine.ts';
const STREAMER = 'src/models/vgpu/engine/command-streamer.ts';
const STATE = 'src/models/vgpu/engine/command-state.ts';
const OPERATIONS = 'src/models/vgpu/engine/operations.ts';

const COMMANDS = ['test/unit/vgpu-commands.test.ts'];
const COMPUTE = ['test/unit/vgpu-compute.test.ts'];
const COPY = ['test/unit/vgpu-copy.test.ts'];
const ENGINE_TESTS = ['test/unit/vgpu-engines.test.ts'];
const FENCES = ['test/unit/vgpu-fences.test.ts'];
const SAVED = ['test/unit/vgpu-state.test.ts'];

export const VGPU_ENGINE_MUTANTS: readonly Mutant[] = [
  {
    id: 'vgpu/fence-exact',
    file: ENGINE,
    find: 'fencePassed(word, command.value)',
    replace: 'word === command.value',
    why: 'A fence that has gone beyond its value is never reached.',
    killedBy: FENCES,
  },
  {
    id: 'vgpu/wait-is-work',
    file: ENGINE,
    find: 'return !this.#hung && !this.#waiting && (',
    replace: 'return !this.#hung && (',
    why: 'A waiting engine is stepped as if it had work.',
    killedBy: FENCES,
  },
  {
    id: 'vgpu/hung-is-work',
    file: ENGINE,
    find: 'return !this.#hung && !this.#waiting && (',
    replace: 'return !this.#waiting && (',
    why: 'A hung command continues.',
    killedBy: COMPUTE,
  },
  {
    id: 'vgpu/hang-per-step',
    file: ENGINE,
    find: 'command.spentNs += this.#work.costNs;',
    replace: 'command.spentNs = this.#work.costNs;',
    why: 'The hang limit counts one step instead of the whole command.',
    killedBy: COMPUTE,
  },
  {
    id: 'vgpu/reset-of-engine-keeps-hung',
    file: ENGINE,
    find: `  endCommand(): void {
    this.#hung = false;`,
    replace: '  endCommand(): void {',
    why: 'An engine stays hung after its reset.',
    killedBy: COMPUTE,
  },
  {
    id: 'vgpu/reset-keeps-head',
    file: ENGINE,
    find: `    this.#current = undefined;
    this.#head = 0;`,
    replace: '    this.#current = undefined;',
    why: 'A reset device fetches from its old position.',
    killedBy: COMMANDS,
  },
  {
    id: 'vgpu/wrap-at-maximum',
    file: ENGINE,
    find: '(this.#head + 1) % ring.entries',
    replace: '(this.#head + 1) % RING_ENTRIES_MAX',
    why: 'The head runs beyond a smaller ring.',
    killedBy: COMMANDS,
  },
  {
    id: 'vgpu/context-of-other-limit',
    file: ENGINE,
    find: 'isValid(command, this.#spaces.limit(command.context))',
    replace: 'isValid(command, this.#spaces.limit(0))',
    why: 'Addresses are checked against the limit of context 0.',
    killedBy: ['test/unit/vgpu-address-spaces.test.ts'],
  },
  {
    id: 'vgpu/both-engines-run-all',
    file: ENGINE,
    find: 'const runs = this.#opcodes.has(command.opcode);',
    replace: 'const runs = true;',
    why: 'An engine runs commands of the other.',
    killedBy: ENGINE_TESTS,
  },
  {
    id: 'vgpu/restore-any-opcode',
    file: ENGINE,
    find: 'if (command && command.status === undefined && !this.#opcodes.has(command.opcode))',
    replace: 'if (command && command.status !== undefined && !this.#opcodes.has(command.opcode))',
    why: 'A state puts a running command on the wrong engine.',
    killedBy: SAVED,
  },
  {
    id: 'vgpu/restore-drops-wait',
    file: ENGINE,
    find: `    this.#current = command;
    this.#waiting = isWait(command);
    this.#mayPoll = this.#waiting && state.boolean('looks');`,
    replace: `    this.#current = command;
    this.#mayPoll = false;`,
    why: 'A wait that migrates runs as a command with pieces.',
    killedBy: FENCES,
  },
  {
    id: 'vgpu/fault-without-report',
    file: ENGINE,
    find: `    if (status === DMA_FAULT) this.#fail(command);
    else if (fencePassed`,
    replace: `    if (status === DMA_FAULT) command.status = CompletionStatus.fault;
    else if (fencePassed`,
    why: 'A wait that faults sets no fault registers.',
    killedBy: FENCES,
  },
  {
    id: 'vgpu/halted-can-be-enabled',
    file: STREAMER,
    find: "    if (this.#get('Status') & STATUS_HALTED) return;\n",
    replace: '',
    why: 'A halted engine starts without a reset.',
    killedBy: COMMANDS,
  },
  {
    id: 'vgpu/head-outside-ring',
    file: STREAMER,
    find: 'if (!isRingSize(entries) || this.engine.head >= entries) {',
    replace: 'if (!isRingSize(entries)) {',
    why: 'A ring that is too small for its head is enabled.',
    killedBy: COMMANDS,
  },
  {
    id: 'vgpu/halt-keeps-ring',
    file: STREAMER,
    find: `  #halt(): void {
    this.stop();`,
    replace: '  #halt(): void {',
    why: 'A halted engine fetches on.',
    killedBy: COMMANDS,
  },
  {
    id: 'vgpu/disable-keeps-ring',
    file: STREAMER,
    find: `      this.stop();
      this.#set('Status', 0);`,
    replace: "      this.#set('Status', 0);",
    why: 'A disabled engine works on.',
    killedBy: [...ENGINE_TESTS, ...FENCES],
  },
  {
    id: 'vgpu/hang-limit-lost-at-restore',
    file: STREAMER,
    find: `    this.#setRing(entries === 0 ? undefined : ring);
    this.#setHangLimit();`,
    replace: '    this.#setRing(entries === 0 ? undefined : ring);',
    why: 'A migrated engine has the hang limit of the reset.',
    killedBy: SAVED,
  },
  {
    id: 'vgpu/restore-head-outside-ring',
    file: STREAMER,
    find: 'if (entries !== 0 && !(isRingSize(entries) && this.engine.head < entries))',
    replace: 'if (entries !== 0 && !isRingSize(entries))',
    why: 'A state with its head outside the ring is accepted.',
    killedBy: SAVED,
  },
  {
    id: 'vgpu/restore-part-of-word',
    file: STATE,
    find: 'done < length && done % unit === 0 && spentNs >= 0',
    replace: 'done < length && spentNs >= 0',
    why: 'A restored kernel continues in the middle of a word.',
    killedBy: SAVED,
  },
  {
    id: 'vgpu/restore-loses-time',
    file: STATE,
    find: "spentNs: state.number('command.spentNs'),",
    replace: 'spentNs: 0,',
    why: 'A command that migrates often never hangs.',
    killedBy: SAVED,
  },
  {
    id: 'vgpu/fill-needs-read',
    file: OPERATIONS,
    find: 'const page = work.spaces.translate(command.context, target, PERM_WRITE);',
    replace: 'const page = work.spaces.translate(command.context, target, PERM_READ);',
    why: 'A fill writes to read-only pages.',
    killedBy: COMMANDS,
  },
  {
    id: 'vgpu/copy-needs-write',
    file: OPERATIONS,
    find: `    const from = work.spaces.translate(context, source, PERM_READ);
    if (typeof from === 'number') return from;
    const ends`,
    replace: `    const from = work.spaces.translate(context, source, PERM_WRITE);
    if (typeof from === 'number') return from;
    const ends`,
    why: 'A copy from a read-only page faults.',
    killedBy: COMMANDS,
  },
  {
    id: 'vgpu/copy-runs-overlap',
    file: OPERATIONS,
    find: '    if (length + piece > apart) break;\n',
    replace: '',
    why: 'Overlapping pieces are copied at once, in the wrong order.',
    killedBy: COPY,
  },
  {
    id: 'vgpu/copy-runs-unbounded',
    file: OPERATIONS,
    find: `    length += piece;
    work.piecesLeft--;`,
    replace: '    length += piece;',
    why: 'A step copies any length.',
    killedBy: COPY,
  },
  {
    id: 'vgpu/copy-runs-ignore-frames',
    file: OPERATIONS,
    find: "return entry?.memory === 'ram' && entry.pfn === pfn + pages;",
    replace: "return entry?.memory === 'ram';",
    why: 'A copy runs over host pages that are not adjacent.',
    killedBy: COPY,
  },
  {
    id: 'vgpu/target-beyond-limit',
    file: OPERATIONS,
    find: '(target + length <= limit || !writes)',
    replace: '(target <= limit || !writes)',
    why: 'A kernel writes beyond its address space.',
    killedBy: COMPUTE,
  },
  {
    id: 'vgpu/update-misaligned',
    file: OPERATIONS,
    find: 'target % page === 0 && source % page === 0 && length % page === 0',
    replace: 'target % page === 0 && length % page === 0',
    why: 'A page table entry gets a misaligned address.',
    killedBy: ['test/unit/vgpu-address-spaces.test.ts'],
  },
];
