/**
 * The vgpu: its copy engine against a plain copy, its doorbell against a bare round trip between two threads, and the
 * commands per second of 1, 16 and 128 vGPUs.
 */
import { Worker } from 'node:worker_threads';
import { nowUs, sleep, yieldTurn } from '#host';
import * as mem from '#mem';
import * as vgpu from '../src/abi/vgpu/vgpu.ts';
import { DeviceHarness } from '../src/device/sdk/harness.ts';
import { PAGE_2M, PAGE_SIZE } from '../src/memory/address.ts';
import { MODELS } from '../src/models/index.ts';
import { type CommandFields, REGISTER_BYTES, writeCommand } from '../test/fixtures/vgpu-layout.ts';
import { format, median, type Report, takeTurns } from './report.ts';
import { framesOf, startVgpus, type ThreadedVgpu } from './vgpu-rig.ts';

const { add, ld, st, wake, waitEqAsync, wordsOf } = mem;

const COPY_BYTES = 16 * 2 ** 20;
/** Count of copies of each kind before the measurement, so V8 has compiled their code. */
const WARM_COPIES = 30;
const COPY_BOUND = 0.5;
const ROUND_TRIPS = 2000;
const ROUND_TRIP_BOUND = 3;
/** Longer than either side needs to fall asleep. */
const SLEEP_US = 50;
const FLEETS: readonly number[] = [1, 16, 128];
const FLEET_MS = 700;
/** Count of commands of each vGPU before the measurement: every thread compiles its own code. */
const WARM_COMMANDS = 20_000;
const WARM_MS = 60_000;
const FLEET_ROUNDS = 9;
const FLEET_BOUND = 0.8;
const WAIT_MS = 1000;

const RING = 0;
const COMPLETIONS = 0x1000;
const DIRECTORY = 0x2000;
const TABLES = 0x3000;
const SOURCE = PAGE_2M;
const TARGET = SOURCE + COPY_BYTES;
const RING_SLOTS = 2;

/** Creates a vGPU in this thread, with a ring of copies. Its GPU addresses equal IOVAs. */
function copyRig(): { readonly gpu: DeviceHarness; copy(): void } {
  const gpu = new DeviceHarness(MODELS.vgpu!, { ramMiB: 64 });
  gpu.enable();
  const flags = vgpu.GPU_PTE_PRESENT | vgpu.GPU_PTE_WRITABLE;
  for (let page = 0; page < (TARGET + COPY_BYTES) / PAGE_SIZE; page++)
    gpu.ram.write32(TABLES + page * 8, (page * PAGE_SIZE) | flags);
  for (let table = 0; table < (TARGET + COPY_BYTES) / PAGE_2M; table++)
    gpu.ram.write32(DIRECTORY + table * 8, (TABLES + table * PAGE_SIZE) | vgpu.GPU_PTE_PRESENT);
  for (let slot = 0; slot < RING_SLOTS; slot++)
    writeCommand(gpu.ram, RING + slot * vgpu.COMMAND_BYTES, {
      opcode: vgpu.Opcode.copy,
      source: SOURCE,
      target: TARGET,
      length: COPY_BYTES,
    });
  const bar = gpu.model.bars[0]!;
  const set = (name: vgpu.VgpuRegister, value: number) =>
    bar.write(vgpu.VGPU_OFFSET[name], REGISTER_BYTES[name], BigInt(value));
  set('RingBase', RING);
  set('RingEntries', RING_SLOTS);
  set('CompletionBase', COMPLETIONS);
  set('PageTableBase', DIRECTORY);
  set('Control', vgpu.CONTROL_ENABLE);
  let tail = 0;
  const copy = () => {
    tail = (tail + 1) % RING_SLOTS;
    set('RingTail', tail);
    while (gpu.model.step() === 'more');
  };
  return { gpu, copy };
}

async function benchCopy(report: Report): Promise<void> {
  const { gpu, copy } = copyRig();
  const source = framesOf(gpu.ram, SOURCE, COPY_BYTES);
  const target = framesOf(gpu.ram, TARGET, COPY_BYTES);
  const plain = () => {
    for (const [i, frame] of target.entries()) gpu.ram.host.copy(frame, source[i]!, PAGE_2M);
  };
  const perByte = (work: () => void) => () => {
    const since = nowUs();
    work();
    return ((nowUs() - since) * 1000) / COPY_BYTES;
  };
  gpu.ram.host.fill32(source[0]!, PAGE_2M, 0x5eed);
  for (let i = 0; i < WARM_COPIES; i++) {
    copy();
    plain();
  }
  const result = await takeTurns([perByte(copy), perByte(plain)]);
  if (gpu.ram.read32(TARGET) !== 0x5eed || gpu.faults.length > 0) throw new Error('nothing was copied');
  report.say(
    `vgpu: GB/s of a copy of ${COPY_BYTES / 2 ** 20} MiB, by the engine / a plain copy of each frame: ` +
      result.ns.map((ns) => format(1 / ns)).join(' / '),
  );
  report.bound('vgpu copy engine to a plain copy', result.ratio(1, 0), '≥', COPY_BOUND);
}

/**
 * Lets the other thread fall asleep before the next doorbell. Two threads on two cores that respond at once never
 * sleep, and a bare round trip then takes 2 µs instead of 12 µs. No guest uses a device like that, and either time
 * would occur at random.
 */
async function letSleep(): Promise<void> {
  for (const end = nowUs() + SLEEP_US; nowUs() < end; ) await yieldTurn();
}

/** Returns the microseconds from each doorbell to the interrupt of its command, which does nothing. */
async function doorbells(gpu: ThreadedVgpu): Promise<number[]> {
  const times: number[] = [];
  for (let i = 0; i < ROUND_TRIPS; i++) {
    await letSleep();
    const before = gpu.link.events;
    const since = nowUs();
    gpu.post(1);
    await gpu.link.waitEvents(before, WAIT_MS);
    times.push(nowUs() - since);
  }
  return times;
}

async function echoes(words: mem.SharedWords): Promise<number[]> {
  const times: number[] = [];
  for (let i = 0; i < ROUND_TRIPS; i++) {
    await letSleep();
    const before = ld(words, 1, 'link.word');
    const since = nowUs();
    add(words, 0, 1, 'link.word');
    wake(words, 0, 'link.wait');
    await waitEqAsync(words, 1, before, WAIT_MS, 'link.wait');
    times.push(nowUs() - since);
  }
  return times;
}

async function benchDoorbell(report: Report): Promise<void> {
  const [gpu] = (await startVgpus(1, { opcode: vgpu.Opcode.nop })) as [ThreadedVgpu];
  const sab = new SharedArrayBuffer(16);
  const words = wordsOf(sab);
  const echo = new Worker(new URL('./echo-thread.js', import.meta.url), { workerData: sab });
  const result = await takeTurns(
    [async () => median(await doorbells(gpu)), async () => median(await echoes(words))],
    FLEET_ROUNDS,
  );
  st(words, 2, 1, 'link.word');
  await gpu.stop();
  await echo.terminate();
  report.say(
    `vgpu: µs p50 from doorbell to interrupt / of a bare round trip: ${result.ns.map(format).join(' / ')}`,
  );
  report.bound('vgpu doorbell to a bare round trip', result.ratio(0, 1), '≤', ROUND_TRIP_BOUND);
}

/** Keeps the rings of a fleet full for `ms`, or until `until` returns true. */
async function keepBusy(fleet: readonly ThreadedVgpu[], ms: number, until: () => boolean): Promise<void> {
  for (const end = nowUs() + ms * 1000; nowUs() < end && !until(); ) {
    for (const gpu of fleet) gpu.refill();
    // A ring outlasts a millisecond. One vGPU has a core of its own; beside more, this thread must not spin.
    await (fleet.length === 1 ? yieldTurn() : sleep(1));
  }
}

/** Returns the commands per second of a fleet. The other fleets sleep. */
export async function commandRate(fleet: readonly ThreadedVgpu[]): Promise<number> {
  const done = () => fleet.reduce((sum, gpu) => sum + gpu.completed, 0);
  const [before, since] = [done(), nowUs()];
  await keepBusy(fleet, FLEET_MS, () => false);
  const rate = (done() - before) / ((nowUs() - since) / 1e6);
  while (fleet.some((gpu) => gpu.completed < gpu.posted)) await sleep(5);
  return rate;
}

/** Starts a fleet and runs its command until every thread has compiled its code. */
export async function startFleet(count: number, command: CommandFields): Promise<ThreadedVgpu[]> {
  const fleet = await startVgpus(count, command);
  await keepBusy(fleet, WARM_MS, () => fleet.every((gpu) => gpu.completed >= WARM_COMMANDS));
  return fleet;
}

async function benchFleets(report: Report): Promise<void> {
  const fleets: ThreadedVgpu[][] = [];
  for (const count of FLEETS)
    fleets.push(await startFleet(count, { opcode: vgpu.Opcode.fill, length: PAGE_SIZE }));
  const result = await takeTurns(
    fleets.map((fleet) => async () => 1e9 / (await commandRate(fleet))),
    FLEET_ROUNDS,
  );
  for (const [i, fleet] of fleets.entries()) {
    const rate = 1e9 / (result.ns[i] as number);
    report.say(
      `vgpu: ${fleet.length} vGPUs fill pages: ${Math.round(rate)} commands/s, ${Math.round(rate / fleet.length)} each`,
    );
    await Promise.all(fleet.map((gpu) => gpu.stop()));
  }
  report.bound('vgpu commands/s of 16 vGPUs to one', result.ratio(0, 1), '≥', FLEET_BOUND);
  report.bound('vgpu commands/s of 128 vGPUs to 16', result.ratio(1, 2), '≥', FLEET_BOUND);
}

export async function benchVgpu(report: Report): Promise<void> {
  await benchCopy(report);
  await benchDoorbell(report);
  await benchFleets(report);
}
