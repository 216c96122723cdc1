/**
 * Mutants of the small models: edu, mtty, mdpy.
 */
import type { Mutant } from '../mutant.ts';

const EDU = 'src/models/edu/edu.ts';
const UART = 'src/models/mtty/uart.ts';
const MDPY = 'src/models/mdpy/mdpy.ts';

const EDU_TESTS = ['test/unit/edu-model.test.ts'];
const SERIAL = ['test/unit/serial-display.test.ts'];
const MOVED = ['test/property/device-migration-models.test.ts'];

export const MODEL_MUTANTS: readonly Mutant[] = [
  {
    id: 'models/edu-beyond-buffer',
    file: EDU,
    find: 'at + count > BUFFER_BYTES',
    replace: 'at > BUFFER_BYTES',
    why: 'A transfer across the end of the buffer is cut instead of refused.',
    killedBy: EDU_TESTS,
  },
  {
    id: 'models/edu-without-bus-master',
    file: EDU,
    find: '(command & COMMAND_START) === 0 || !this.#context.config.busMaster',
    replace: '(command & COMMAND_START) === 0',
    why: 'The device transfers without Bus Master Enable.',
    killedBy: EDU_TESTS,
  },
  {
    id: 'models/edu-stall-ends-command',
    file: EDU,
    find: "if (status === DMA_RETRY) return 'stalled';",
    replace: "if (status === DMA_RETRY) this.#context.metrics.add('retries');",
    why: 'A transfer fails during a switch.',
    killedBy: EDU_TESTS,
  },
  {
    id: 'models/edu-directions-swapped',
    file: EDU,
    find: 'if (fromBuffer) return this.#context.dma.write(destination as Iova, piece);',
    replace: 'if (!fromBuffer) return this.#context.dma.write(destination as Iova, piece);',
    why: 'A transfer goes the other way.',
    killedBy: EDU_TESTS,
  },
  {
    id: 'models/edu-factorial-restarts',
    file: EDU,
    find: `      this.#registers.set('Factorial', this.#operand); // as QEMU, which ignores the write
      return;`,
    replace: '',
    why: 'A second write during a factorial starts another one.',
    killedBy: EDU_TESTS,
  },
  {
    id: 'models/edu-factorial-lost-at-restore',
    file: EDU,
    find: "if (this.#registers.get32('Status') & STATUS_COMPUTING) this.#finishIn(saved.number('factorialUs'));",
    replace: "saved.number('factorialUs');",
    why: 'A migrated factorial never ends.',
    killedBy: MOVED,
  },
  {
    id: 'models/edu-interrupt-stays',
    file: EDU,
    find: "this.#registers.get('InterruptStatus') & ~value",
    replace: "this.#registers.get('InterruptStatus')",
    why: 'An acknowledged interrupt stays set.',
    killedBy: EDU_TESTS,
  },
  {
    id: 'models/uart-overrun-stays',
    file: UART,
    find: `    this.#count++;
    this.#overrun = false;`,
    replace: '    this.#count++;',
    why: 'An overrun is reported for ever.',
    killedBy: SERIAL,
  },
  {
    id: 'models/uart-interrupts-above-trigger',
    file: UART,
    find: 'this.#count === this.#trigger) this.#interrupt();',
    replace: 'this.#count >= this.#trigger) this.#interrupt();',
    why: 'Every byte beyond the trigger interrupts.',
    killedBy: SERIAL,
  },
  {
    id: 'models/uart-clear-keeps-count',
    file: UART,
    find: '[this.#head, this.#tail, this.#count] = [0, 0, 0]',
    replace: '[this.#head, this.#tail] = [0, 0]',
    why: 'A cleared FIFO counts as full.',
    killedBy: SERIAL,
  },
  {
    id: 'models/uart-divisor-stays',
    file: UART,
    find: '      if ((value & uart.LCR_DLAB) !== 0) this.#divisor = 0;\n',
    replace: '',
    why: 'A second divisor is mixed with the first.',
    killedBy: SERIAL,
  },
  {
    id: 'models/uart-one-byte-fifo',
    file: UART,
    find: 'this.#room = (value & uart.FCR_ENABLE_FIFO) !== 0 ? FIFO_SIZE : 1;',
    replace: 'this.#room = FIFO_SIZE;',
    why: 'A disabled FIFO takes sixteen bytes.',
    killedBy: SERIAL,
  },
  {
    id: 'models/uart-room-lost-at-restore',
    file: UART,
    find: '    this.#room = state.room;\n',
    replace: '',
    why: 'A migrated port has the room of the reset.',
    killedBy: ['test/unit/uart.test.ts'],
  },
  {
    id: 'models/mdpy-takes-any-size',
    file: MDPY,
    find: 'saved.integer(side, this.#mode[side], this.#mode[side]);',
    replace: 'saved.integer(side, this.#mode[side]);',
    why: 'The state of a smaller display is accepted.',
    killedBy: ['test/unit/serial-display.test.ts'],
  },
];
