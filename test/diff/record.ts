/**
 * Runs a plan on a real QEMU and records its behaviour as a vector. The DMA master is QEMU's edu device, which copies
 * between memory and a buffer of 4 KiB. While translation is off, the buffer is loaded with all bytes that the vector
 * writes. Each DMA has its own slot in the buffer, and reads are fetched from there at the end. So only the vector's own
 * accesses pass the unit in between.
 */
import type { DmaStep, VtdStep, VtdVector } from '../../src/conformance/vtd/vectors.ts';
import { assemble, type OpenStep, type Plan } from './plan.ts';
import { machineArguments, QemuError, Qtest } from './qtest.ts';

const REGISTERS = 0xfed90000;
/** BAR of the first edu device. The next ones follow. */
const BAR_BASE = 0xe0000000;
const BAR_STEP = 0x100000;
/** Memory page for loading and fetching a device's buffer. */
const SCRATCH_PAGE = 0x7f000000;
/** Device address of the buffer. Its last bytes stay unused because some versions refuse a copy that ends there. */
const EDU_BUFFER = 0x40000;
const EDU_USABLE = 4096 - 64;
const EDU_RUN = 1;
const EDU_TO_MEMORY = 2;
/** Polls of a DMA's busy bit before it counts as stuck. */
const POLL_LIMIT = 20_000;
/** Polls sent at once. A DMA takes about ten. */
const POLL_BATCH = 12;

export interface Qemu {
  readonly program: string;
  readonly firmware: string;
}

/** @throws QemuError that names the vector and the step */
export async function record(qemu: Qemu, plan: Plan): Promise<VtdVector> {
  const vector = {
    name: plan.name,
    group: 'differential',
    seed: plan.seed,
    iommu: plan.iommu,
    devices: [...plan.devices],
  };
  const machine = new Qtest(qemu.program, machineArguments(qemu.firmware, vector));
  const recording = new Recording(machine, assemble(plan), plan);
  try {
    return { ...vector, steps: await recording.run() };
  } catch (error) {
    if (!(error instanceof QemuError)) throw error;
    throw new QemuError(`${plan.name} (seed ${plan.seed}), ${recording.place}: ${error.message}`);
  } finally {
    await machine.close();
  }
}

class Recording {
  readonly #machine: Qtest;
  readonly #steps: readonly OpenStep[];
  readonly #plan: Plan;
  readonly #recorded: VtdStep[] = [];
  /** Offset of each DMA in its device's buffer, by step. */
  readonly #slots = new Map<number, number>();
  readonly #used: number[];
  place = 'start';

  constructor(machine: Qtest, steps: readonly OpenStep[], plan: Plan) {
    this.#machine = machine;
    this.#steps = steps;
    this.#plan = plan;
    this.#used = plan.devices.map(() => 0);
    for (const [index, step] of steps.entries()) {
      if (step.op !== 'dma_read' && step.op !== 'dma_write') continue;
      const device = step.dev ?? 0;
      const at = this.#used[device] ?? 0;
      this.#slots.set(index, at);
      this.#used[device] = at + step.len;
      if (at + step.len > EDU_USABLE)
        throw new RangeError(`${plan.name}: its DMAs exceed ${EDU_USABLE} bytes`);
    }
  }

  async run(): Promise<VtdStep[]> {
    await this.#setUp();
    for (const [index, step] of this.#steps.entries()) {
      this.place = `step ${index} ${step.op}`;
      this.#recorded.push(await this.#step(step, index));
    }
    this.place = 'fetching the results of reads';
    await this.#fetchReads();
    return this.#recorded;
  }

  async #setUp(): Promise<void> {
    const commands = this.#plan.devices.flatMap(({ bdf }, index) => {
      const [device = 0, fn = 0] = bdf
        .slice(3)
        .split('.')
        .map((part) => Number.parseInt(part, 16));
      const config = (0x80000000 | (device << 11) | (fn << 8)) >>> 0;
      return [
        `outl 0xcf8 ${config + 0x10}`,
        `outl 0xcfc ${barOf(index)}`,
        `outl 0xcf8 ${config + 4}`,
        'outl 0xcfc 6',
      ];
    });
    await this.#machine.send(commands);
    for (const [device, used] of this.#used.entries()) {
      const image = Buffer.alloc(used);
      for (const [index, at] of this.#slots) {
        const step = this.#steps[index] as DmaStep;
        if ((step.dev ?? 0) === device && step.op === 'dma_write') image.write(step.data, at, 'hex');
      }
      if (used === 0) continue;
      await this.#machine.one(`write ${SCRATCH_PAGE} ${used} 0x${image.toString('hex')}`);
      await this.#copy(device, SCRATCH_PAGE, 0, used, false);
    }
    await this.#machine.one(`write ${SCRATCH_PAGE} 4096 0x${'00'.repeat(4096)}`);
  }

  async #step(step: OpenStep, index: number): Promise<VtdStep> {
    switch (step.op) {
      case 'mem_write':
        await this.#machine.one(`write ${step.gpa} ${step.data.length / 2} 0x${step.data}`);
        return step;
      case 'mem_read':
        return { ...step, expect: await this.#memory(Number(step.gpa), step.len) };
      case 'reg_write': {
        const write = step.size === 8 ? 'writeq' : 'writel';
        await this.#machine.one(`${write} ${REGISTERS + Number(step.off)} ${step.value}`);
        return step;
      }
      case 'reg_read': {
        const read = step.size === 8 ? 'readq' : 'readl';
        const value = await this.#machine.one(`${read} ${REGISTERS + Number(step.off)}`);
        return { ...step, expect: `0x${BigInt(value).toString(16)}` };
      }
      case 'dma_read':
      case 'dma_write': {
        const slot = this.#slots.get(index) ?? 0;
        await this.#copy(step.dev ?? 0, step.iova, slot, step.len, step.op === 'dma_write');
        return step.op === 'dma_write' ? this.#written(step) : step;
      }
    }
  }

  /** Reads back the parts of a write. Memory held zeros before it. */
  async #written(step: OpenStep & DmaStep): Promise<VtdStep> {
    const parts: string[] = [];
    for (const { gpa, len } of step.probes ?? []) parts.push(await this.#memory(gpa, len));
    return withOutcome(step, parts);
  }

  /** Switches translation off and fetches the results of all reads. Blocked bytes are zeros. */
  async #fetchReads(): Promise<void> {
    await this.#machine.one(`writel ${REGISTERS + 0x18} 0`);
    for (const [device, used] of this.#used.entries()) {
      if (used === 0) continue;
      await this.#copy(device, SCRATCH_PAGE, 0, used, true);
      const image = await this.#memory(SCRATCH_PAGE, used);
      for (const [index, at] of this.#slots) {
        const step = this.#steps[index] as OpenStep & DmaStep;
        if ((step.dev ?? 0) !== device || step.op !== 'dma_read') continue;
        let end = at;
        const parts = (step.probes ?? []).map(({ len }) => {
          end += len;
          return image.slice((end - len) * 2, end * 2);
        });
        const outcome = withOutcome(step, parts);
        const anyOk = parts.some((bytes) => !isZero(bytes));
        this.#recorded[index] = anyOk ? ({ ...outcome, data: parts.join('') } as VtdStep) : outcome;
      }
    }
  }

  async #memory(gpa: number, len: number): Promise<string> {
    return (await this.#machine.one(`read ${gpa} ${len}`)).slice(2);
  }

  async #copy(
    device: number,
    address: number | string,
    slot: number,
    len: number,
    toMemory: boolean,
  ): Promise<void> {
    const bar = barOf(device);
    const buffer = EDU_BUFFER + slot;
    const [from, to] = toMemory ? [buffer, address] : [address, buffer];
    const command = EDU_RUN | (toMemory ? EDU_TO_MEMORY : 0);
    const poll = `readq ${bar + 0x98}`;
    let commands = [
      `writeq ${bar + 0x80} ${from}`,
      `writeq ${bar + 0x88} ${to}`,
      `writeq ${bar + 0x90} ${len}`,
      `writeq ${bar + 0x98} ${command}`,
    ];
    for (let polls = 0; polls < POLL_LIMIT; polls += POLL_BATCH) {
      const answers = await this.#machine.send([...commands, ...Array<string>(POLL_BATCH).fill(poll)]);
      if ((BigInt(answers.at(-1) ?? '0x1') & 1n) === 0n) return;
      commands = [];
    }
    throw new QemuError(`a DMA was not done after ${POLL_LIMIT} polls`);
  }
}

const barOf = (device: number): number => BAR_BASE + device * BAR_STEP;

const isZero = (bytes: string): boolean => /^0*$/.test(bytes);

/** Returns the step in the format of vectors. `bytes` of a blocked part are zeros. */
function withOutcome({ probes = [], ...step }: OpenStep & DmaStep, bytes: readonly string[]): VtdStep {
  const outcomes = bytes.map((part) => (isZero(part) ? ('fault' as const) : ('ok' as const)));
  const expect = outcomes.includes('fault') ? ('fault' as const) : ('ok' as const);
  const parts = probes.map(({ iova, len }, index) => ({
    iova: `0x${iova.toString(16)}`,
    len,
    expect: outcomes[index] ?? 'fault',
  }));
  return { ...step, expect, ...(parts.length > 1 ? { parts } : {}) } as VtdStep;
}
