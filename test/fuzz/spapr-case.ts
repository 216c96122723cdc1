/**
 * sPAPR fuzz case: hypercalls and RTAS calls with arbitrary arguments, made directly and through the call page.
 */

import * as spapr from '../../src/abi/spapr.ts';
import * as callPage from '../../src/abi/spapr-call-page.ts';
import { BUID_HI, BUID_LO, DYNAMIC_WINDOW_START, liobnOf } from '../../src/abi/spapr-host-bridges.ts';
import type { HypercallResult } from '../../src/viommu/spapr/hypercalls.ts';
import { type RtasReturn, SpaprIommu } from '../../src/viommu/spapr/iommu.ts';
import { type FuzzProgram, runProgram, type Step } from './case.ts';
import { DEVICES, hold, PAGE, type World } from './rig.ts';

const LIST = 16 * PAGE;
const BLOCK = 17 * PAGE;
const RECORDS = 18 * PAGE;
const STEPS = 40;
const LIVE_TCES = 1500;
const VIO_LIOBN = 0x7100_0000;
const LIOBNS = [liobnOf(0, 0), liobnOf(0, 0), liobnOf(0, 1), liobnOf(1, 0), VIO_LIOBN];
const OPCODES = [
  spapr.H_GET_TCE,
  spapr.H_PUT_TCE,
  spapr.H_PUT_TCE,
  spapr.H_STUFF_TCE,
  spapr.H_PUT_TCE_INDIRECT,
];
const COUNTS = [0n, 1n, 2n, 8n, 64n, 511n, 512n, 513n, 2n ** 31n, 2n ** 64n - 1n];
const RTAS_NAMES = [...spapr.RTAS_TOKENS.keys(), 'ibm,no-such-call'];
const SHIFTS = [12, 16, 21, 24, 13, 0];
const SMALL_WINDOW = 2 ** 24;
const DYNAMIC = 2 ** 47;

export const spaprCase = (world: World): Promise<void> => runProgram(world, new SpaprCase(world));

class SpaprCase implements FuzzProgram {
  readonly #world: World;
  readonly iommu: SpaprIommu;
  /** Start addresses of windows. */
  readonly #starts: readonly number[];

  constructor(world: World) {
    const { draw } = world;
    this.#world = world;
    const high = draw.chance(30);
    this.#starts = [0, 0, high ? DYNAMIC_WINDOW_START : DYNAMIC];
    const limits = high ? {} : { dynamicWindowStart: DYNAMIC, busAddressLimit: 2 ** 48 };
    const small = {
      ...limits,
      defaultWindow: { start: 0, size: SMALL_WINDOW },
      dynamicWindows: draw.chance(80),
    };
    const options = {
      bridges: [limits, small],
      bridgeOf: (id: number) => (id === DEVICES[3] ? 1 : 0),
      vioLiobns: [VIO_LIOBN],
      quirks: draw.chance(65) ? 'spec' : 'qemu',
      liveTceLimit: LIVE_TCES,
    } as const;
    this.iommu = world.make((given) => new SpaprIommu({ ...options, ...given }));
  }

  readonly stepLimit = STEPS;
  readonly startSteps: readonly Step[] = [];
  readonly steps: readonly Step[] = [
    () => this.#hypercall(),
    () => this.#hypercall(),
    () => this.#hypercall(),
    () => this.#hypercallByPage(),
    () => this.#hypercallByPage(),
    () => this.#writeAny(),
    () => this.#access(),
    () => this.#access(),
    () => this.#rtas(),
    () => this.#rtasByBlock(),
  ];

  /** Returns a bus address, mostly near the start of a window. */
  #ioba(): bigint {
    const { draw } = this.#world;
    if (draw.chance(10)) return draw.wide();
    const page = 2 ** draw.one([12, 12, 12, 12, 16, 21, 24]);
    return BigInt(draw.one(this.#starts)) + BigInt(draw.below(16) * page) + BigInt(draw.chance(10) ? 5 : 0);
  }

  #tce(): bigint {
    const { draw } = this.#world;
    if (draw.chance(15)) return 0n;
    return draw.chance(90) ? BigInt(this.#world.page()) | BigInt(draw.below(4)) : draw.wide();
  }

  /** Returns an opcode and its arguments. Fills the list of an indirect call. */
  #call(): readonly [opcode: number, args: bigint[]] {
    const { draw } = this.#world;
    const opcode = draw.chance(97) ? draw.one(OPCODES) : draw.word();
    const liobn = draw.chance(95) ? BigInt(draw.one(LIOBNS)) : draw.wide();
    const count = draw.chance(80) ? BigInt(draw.below(24)) : draw.one(COUNTS);
    const args = [liobn, this.#ioba()];
    if (opcode !== spapr.H_PUT_TCE_INDIRECT) return [opcode, [...args, this.#tce(), count]];
    this.#fillList(Number(count & 0xfffn));
    return [opcode, [...args, draw.chance(93) ? BigInt(LIST) : draw.wide(), count]];
  }

  #fillList(count: number): void {
    const entries = Math.min(count, spapr.TCE_CALL_LIMIT);
    const list = new DataView(new ArrayBuffer(8 * entries));
    for (let i = 0; i < entries; i++) list.setBigUint64(8 * i, this.#tce());
    this.#world.guest.write(LIST, new Uint8Array(list.buffer));
  }

  #hypercall(): void {
    const [opcode, args] = this.#call();
    this.#await(this.iommu.hypercall(opcode, args), ({ ret, out }) => this.#answer(ret, out));
  }

  #hypercallByPage(): void {
    const { draw } = this.#world;
    const slot = draw.below(callPage.CALL_SLOTS);
    const [opcode, args] = this.#call();
    this.#ring(slot, opcode, args);
  }

  #ring(slot: number, opcode: number, args: readonly bigint[]): void {
    const { draw, digest } = this.#world;
    const base = callPage.CALL_SLOT_BASE + slot * callPage.CALL_SLOT_BYTES;
    const write = (at: number, value: bigint) => this.#world.write(this.iommu, base + at, 8, value);
    write(callPage.CALL_OPCODE, BigInt(opcode));
    for (const [i, arg] of args.entries()) write(callPage.CALL_ARG0 + 8 * i, arg);
    write(callPage.CALL_RECORD, draw.chance(90) ? BigInt(RECORDS + 32 * slot) : draw.wide());
    write(callPage.CALL_DOORBELL, draw.wide());
    digest.addWide(this.iommu.readRegister(base + callPage.CALL_RET, 8));
    digest.addWide(this.iommu.readRegister(base + callPage.CALL_DONE, 8));
  }

  #rtasArgs(): number[] {
    const { draw } = this.#world;
    const buid = BUID_LO + draw.below(3);
    const liobn = draw.one(LIOBNS);
    const args = draw.chance(40) ? [liobn] : [0, BUID_HI, buid, draw.one(SHIFTS), 12 + draw.below(40)];
    if (args.length > 1 && draw.chance(50)) args.length = 3;
    if (draw.chance(10)) args[draw.below(args.length)] = draw.word();
    if (draw.chance(5)) args.push(draw.word());
    return args;
  }

  #rtas(): void {
    const { draw } = this.#world;
    const done = this.iommu.rtas(draw.one(RTAS_NAMES), this.#rtasArgs(), draw.one([1, 1, 4, 4, 5, 6, 0]));
    this.#await<RtasReturn>(done, ({ ret, status, rets }) =>
      this.#answer(ret, [status, ...rets].map(BigInt)),
    );
  }

  #rtasByBlock(): void {
    const { draw, guest } = this.#world;
    const token = draw.chance(95) ? draw.one([...spapr.RTAS_TOKENS.values()]) : draw.word();
    const args = this.#rtasArgs();
    const lengths = draw.chance(90) ? [args.length, draw.one([1, 4, 5, 6])] : [draw.word(), draw.word()];
    const words = [token, ...lengths, ...args];
    const block = new DataView(new ArrayBuffer(4 * words.length));
    for (const [i, word] of words.entries()) block.setUint32(4 * i, word);
    guest.write(BLOCK, new Uint8Array(block.buffer));
    const at = draw.chance(93) ? BigInt(BLOCK) : draw.wide();
    if (draw.chance(50)) this.#ring(draw.below(callPage.CALL_SLOTS), spapr.H_RTAS, [at]);
    else this.#await(this.iommu.hypercall(spapr.H_RTAS, [at]), ({ ret, out }) => this.#answer(ret, out));
    for (let i = 0; i < spapr.RTAS_WORD_LIMIT; i++) this.#world.digest.add(guest.read32(BLOCK + 4 * i));
  }

  #writeAny(): void {
    const { draw, digest } = this.#world;
    const offset = draw.chance(70) ? 8 * draw.below(0x130) : draw.below(2 * PAGE);
    const size = draw.one([1, 2, 4, 8]);
    this.#world.write(this.iommu, offset, size, draw.wide());
    digest.addWide(this.iommu.readRegister(offset, size));
  }

  #access(): void {
    const { draw } = this.#world;
    for (let left = 4; left > 0; left--)
      this.#world.translate(this.iommu, draw.one(DEVICES), Number(this.#ioba()), draw.chance(50));
  }

  #answer(ret: bigint, out: readonly bigint[]): void {
    this.#world.digest.addWide(ret);
    for (const value of out) this.#world.digest.addWide(value);
  }

  #await<Result = HypercallResult>(done: Result | Promise<Result>, answered: (result: Result) => void): void {
    if (done instanceof Promise) this.#world.track(done.then(answered));
    else answered(done);
  }

  walks(): number {
    return this.iommu.counters.hypercalls;
  }

  observe(): void {
    const { liveTces, counters, bridges } = this.iommu;
    const { digest } = this.#world;
    hold(liveTces >= 0 && liveTces <= LIVE_TCES, `${liveTces} TCEs are live; at most ${LIVE_TCES}`);
    digest.add(liveTces);
    for (const { windows } of bridges)
      for (const { start, end, liobn, live } of windows)
        for (const value of [start, end, liobn, live]) digest.add(value);
    for (const count of Object.values(counters)) digest.add(count);
  }
}
