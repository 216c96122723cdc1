/**
 * Mutants of PCI functions, and of register files.
 */
import type { Mutant } from '../mutant.ts';

const CONFIG = 'src/pci/config-space.ts';
const MSIX = 'src/pci/msix.ts';
const BARS = 'src/pci/bar-allocator.ts';
const FILE = 'src/registers/register-file.ts';
const STATE = 'src/registers/register-state.ts';

const PCI = ['test/unit/vgpu-pci.test.ts'];
const REGISTERS = ['test/unit/registers.test.ts'];
const PLACES = ['test/unit/serial-display.test.ts'];
const REFUSED = ['test/unit/viommu-state-refused.test.ts'];

export const PCI_MUTANTS: readonly Mutant[] = [
  {
    id: 'pci/message-without-bus-master',
    file: CONFIG,
    find: 'return this.busMaster ? message : undefined;',
    replace: 'return message;',
    why: 'An interrupt leaves a function without Bus Master Enable.',
    killedBy: ['test/unit/device-runtime.test.ts'],
  },
  {
    id: 'pci/pending-needs-bus-master',
    file: CONFIG,
    find: '    const message = this.#message(vector);\n    return this.busMaster ? message : undefined;',
    replace: '    return this.busMaster ? this.#message(vector) : undefined;',
    why: 'A masked vector does not become pending without Bus Master Enable.',
    killedBy: PCI,
  },
  {
    id: 'pci/msi-vectors-not-shared',
    file: CONFIG,
    find: 'return vector & (enabled - 1);',
    replace: 'return vector;',
    why: 'A vector arrives that software has not enabled.',
    killedBy: REGISTERS,
  },
  {
    id: 'pci/function-reset-by-any-write',
    file: CONFIG,
    find: '      if ((control & CONTROL_FUNCTION_RESET) === 0n) return;\n',
    replace: '',
    why: 'Every write to Device Control resets the function.',
    killedBy: PCI,
  },
  {
    id: 'pci/function-reset-loses-payload',
    file: CONFIG,
    find: "(this.registers.get('ExpressControl') & ~CONTROL_PAYLOAD) | (control & CONTROL_PAYLOAD)",
    replace: "this.registers.get('ExpressControl')",
    why: 'A function-level reset changes Max_Payload_Size.',
    killedBy: PCI,
  },
  {
    id: 'pci/function-reset-keeps-config',
    file: CONFIG,
    find: `      this.registers.reset();
`,
    replace: '',
    why: 'A function-level reset keeps Command and MSI.',
    killedBy: PCI,
  },
  {
    id: 'pci/io-bars-in-memory-space',
    file: CONFIG,
    find: 'this.#ioBars.includes(bar) ? COMMAND_IO_SPACE : COMMAND_MEMORY_SPACE',
    replace: 'COMMAND_MEMORY_SPACE',
    why: 'An I/O BAR answers in memory space.',
    killedBy: PLACES,
  },
  {
    id: 'pci/small-io-bar',
    file: CONFIG,
    find: '(isIo ? ~3 : ~15)',
    replace: '~15',
    why: 'An I/O BAR of 8 bytes has the size of 16.',
    killedBy: ['test/unit/config-golden.test.ts', ...PLACES],
  },
  {
    id: 'pci/upper-half-flags',
    file: CONFIG,
    find: 'if (id.wideBars?.includes((index - 1) as BarNumber)) return { ...at, rw: ALL32 };',
    replace: 'if (id.wideBars?.includes((index - 1) as BarNumber)) return { ...at, rw: ALL32 & ~0xfn };',
    why: 'The upper half of a 64-bit BAR has flags.',
    killedBy: PCI,
  },
  {
    id: 'pci/msix-delivers-and-stays-pending',
    file: MSIX,
    find: `    this.#setPending(vector, false);
    this.#deliver(vector);`,
    replace: '    this.#deliver(vector);',
    why: 'A delivered vector stays pending and is delivered again.',
    killedBy: PCI,
  },
  {
    id: 'pci/msix-function-mask-ignored',
    file: MSIX,
    find: 'return all || (this.#registers',
    replace: 'return all === undefined || (this.#registers',
    why: 'The function mask masks nothing.',
    killedBy: PCI,
  },
  {
    id: 'pci/msix-pending-while-disabled',
    file: MSIX,
    find: 'if (!enabled || !isPending || this.#isMasked(vector)) return;',
    replace: 'if (!isPending || this.#isMasked(vector)) return;',
    why: 'A pending vector is delivered although MSI-X is disabled.',
    killedBy: PCI,
  },
  {
    id: 'pci/bars-unaligned',
    file: BARS,
    find: 'Math.ceil((isIo ? this.#io : this.#memory) / bytes) * bytes',
    replace: '(isIo ? this.#io : this.#memory)',
    why: 'A BAR is placed at an address that its mask clears.',
    killedBy: PLACES,
  },
  {
    id: 'registers/no-write-1-to-clear',
    file: FILE,
    find: '& ~rw & ~(incoming & (this.#w1c[at] as number))',
    replace: '& ~rw',
    why: 'A write of 1 clears nothing.',
    killedBy: REGISTERS,
  },
  {
    id: 'registers/action-for-each-byte',
    file: FILE,
    find: 'if (spec && spec !== previous) spec.action?.(',
    replace: 'if (spec) spec.action?.(',
    why: 'One write runs an action for each of its bytes.',
    killedBy: REGISTERS,
  },
  {
    id: 'registers/access-across-end',
    file: FILE,
    find: 'offset >= 0 && offset + size <= this.size',
    replace: 'offset >= 0 && offset < this.size',
    why: 'An access across the end throws.',
    killedBy: REGISTERS,
  },
  {
    id: 'registers/counts-partial-accesses',
    file: FILE,
    find: '    for (let at = offset; at < offset + size; at++) if (this.#owner[at]) return;\n',
    replace: '    if (this.#owner[offset]) return;\n',
    why: 'An access that reaches a register behind a gap counts as unimplemented.',
    killedBy: REGISTERS,
  },
  {
    id: 'registers/unimplemented-unlimited',
    file: FILE,
    find: 'if (this.unimplemented.size >= UNIMPLEMENTED_OFFSETS_LIMIT) {',
    replace: 'if (this.unimplemented.size > UNIMPLEMENTED_OFFSETS_LIMIT) {',
    why: 'One more offset is counted than allowed.',
    killedBy: REGISTERS,
  },
  {
    id: 'registers/restore-fixed-bits',
    file: STATE,
    find: 'if (((value ^ here) & fixed) !== 0n)',
    replace: 'if (((value ^ here) & fixed) < 0n)',
    why: 'A state changes capabilities that the guest has read.',
    killedBy: REFUSED,
  },
  {
    id: 'registers/restore-device-bits',
    file: STATE,
    find: '~((spec.rw ?? 0n) | (deviceBits[spec.name] ?? 0n))',
    replace: '~(spec.rw ?? 0n)',
    why: 'A state with a bit that the device has set is refused.',
    killedBy: ['test/unit/viommu-state.test.ts'],
  },
];
