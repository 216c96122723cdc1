/**
 * Migration streams that are broken on their way: a host must refuse what is no VM, let go of what it has built, and take
 * in the next one.
 */
import { existsSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { Prng } from '#host';
import { FrameSocket } from '../../src/channel/frame-socket.ts';
import {
  decodeFrame,
  encodeFrame,
  type Frame,
  type FrameHeader,
  type FrameKind,
} from '../../src/proto/codec.ts';
import { delimited, lengthPrefix } from '../../src/proto/delimited.ts';
import type { FrameBodies } from '../../src/proto/schema.ts';
import { until, withHosts } from '../e2e/migration-hosts.ts';

/** Silence after which nothing more is to be heard of a broken stream, and of a sound one. */
const SILENCE_MS = 1_000;
const SOUND_SILENCE_MS = 20_000;
/** Scripts of VMs that arrive broken may wait for what never comes. */
const SCRIPT_MS = 3_000;
/** How long a host may take to let go of what came before, and have room again; asked as often as this. */
const ROOM_MS = 60_000;
const ROOM_POLL_MS = 100;
/** A sound stream must be taken in after so many broken ones. */
const SOUND_EVERY = 10;

const header = (device: number): FrameHeader => ({ timeUs: 0, process: 1, vm: 0, device });

/** What a source sends, frame by frame, to a host that agrees to everything. */
export async function recordStream(viommu: string): Promise<Uint8Array[]> {
  const frames: Uint8Array[] = [];
  await withHosts({ viommu, timeoutMs: SCRIPT_MS }, async ({ sockets, start, heard }) => {
    const server = createServer((socket) => void agree(socket, frames));
    await new Promise<void>((resolve) => {
      server.listen(sockets[1], resolve);
    });
    start(0);
    await until(() => heard[0]?.results.length === 1, 'the VM’s departure');
    server.close();
  });
  return frames;
}

type Answers = { readonly [K in FrameKind]?: () => [FrameKind, FrameBodies[FrameKind]] };

const ANSWERS: Answers = {
  migrationStart: () => ['migrationReady', {}],
  migrationLoad: () => ['migrationLoaded', {}],
  migrationCompare: () => ['migrationCompared', { comparedBytes: 0, differentBytes: 0, firstDifference: 0 }],
  migrationResume: () => ['migrationRunning', {}],
};

async function agree(socket: Socket, frames: Uint8Array[]): Promise<void> {
  const stream = new FrameSocket(socket, { header });
  for (;;) {
    const frame: Frame = await stream.next();
    frames.push(encodeFrame(frame.header, frame.kind, frame.body as never));
    const answer = ANSWERS[frame.kind]?.();
    if (answer) await stream.send(answer[0], answer[1] as never);
    if (frame.kind === 'migrationResume') return;
  }
}

type Mutation = (frames: Uint8Array[], prng: Prng) => Uint8Array[];

const copyOf = (frames: readonly Uint8Array[]): Uint8Array[] => frames.map((frame) => new Uint8Array(frame)); // a Buffer's slice is the same bytes

/** Ways to break a stream. */
const MUTATIONS: Readonly<Record<string, Mutation>> = {
  drop: (frames, prng) => frames.toSpliced(prng.below(frames.length), 1),
  repeat: (frames, prng) => {
    const at = prng.below(frames.length);
    return frames.toSpliced(at, 0, frames[at] as Uint8Array);
  },
  swap: (frames, prng) => {
    const [a, b] = [prng.below(frames.length), prng.below(frames.length)];
    return frames.with(a, frames[b] as Uint8Array).with(b, frames[a] as Uint8Array);
  },
  cut: (frames, prng) => frames.slice(0, prng.below(frames.length)),
  shorten: (frames, prng) => {
    const at = prng.below(frames.length);
    const frame = frames[at] as Uint8Array;
    return frames.with(at, frame.subarray(0, prng.below(frame.length)));
  },
  // Most bytes are RAM, in which any change is sound: the small frames are what is worth it.
  flip: (frames, prng) => {
    const small = frames.flatMap((frame, i) => (frame.length < 8192 ? [i] : []));
    const broken = copyOf(frames);
    for (let flips = 1 + prng.below(4); flips > 0; flips--) {
      const frame = broken[small[prng.below(small.length)] as number] as Uint8Array;
      const at = prng.below(frame.length);
      frame[at] = (frame[at] as number) ^ (1 << prng.below(8));
    }
    return broken;
  },
};

export const MUTATION_NAMES: readonly string[] = Object.keys(MUTATIONS);

/** What became of a stream: what the host last said, or that it hung up. */
export type Ending = 'migrationFailed' | 'migrationRunning' | 'silence' | 'closed';

/** Sends frames, whatever they are, and hears the host out. */
async function say(path: string, frames: readonly Uint8Array[], silenceMs = SILENCE_MS): Promise<Ending> {
  const socket = connect(path);
  let pending = Buffer.alloc(0);
  let ending: Ending | undefined;
  let heardAt = performance.now();
  socket.on('error', () => {
    ending ??= 'closed';
  });
  socket.on('close', () => {
    ending ??= 'closed';
  });
  socket.on('data', (chunk: Buffer) => {
    heardAt = performance.now();
    pending = Buffer.concat([pending, chunk]);
    for (let found = delimited(pending, 0); found; found = delimited(pending, 0)) {
      const { kind } = decodeFrame(pending.subarray(found.prefix, found.prefix + found.size));
      if (kind === 'migrationFailed' || kind === 'migrationRunning') ending ??= kind;
      pending = pending.subarray(found.prefix + found.size);
    }
  });
  for (const frame of frames) {
    if (socket.destroyed) break;
    socket.write(lengthPrefix(frame.length));
    socket.write(frame);
  }
  while (!ending && performance.now() - heardAt < silenceMs)
    await new Promise((resolve) => setTimeout(resolve, 5));
  socket.destroy();
  return ending ?? 'silence';
}

/** Counts of what became of the broken streams. */
export type Endings = Readonly<Record<Ending, number>>;

/**
 * Breaks a recorded stream `cases` times, each case by its own number and `seed`.
 * @throws Error when a host does not take in a sound VM after broken ones
 */
export async function fuzzMigration(
  viommu: string,
  frames: readonly Uint8Array[],
  seed: number,
  more: (number: number) => boolean,
): Promise<Endings> {
  const endings = { migrationFailed: 0, migrationRunning: 0, silence: 0, closed: 0 };
  await withHosts({ viommu, timeoutMs: SCRIPT_MS }, async ({ sockets, start, heard }) => {
    const path = sockets[1] as string;
    start(1);
    await until(() => existsSync(path), 'the host');
    const results = () => heard[1]?.results ?? [];
    const sound = async (after: number) => {
      const before = results().length;
      let ending: Ending = 'silence';
      const deadline = performance.now() + ROOM_MS;
      while (ending !== 'migrationRunning' && performance.now() < deadline) {
        ending = await say(path, frames, SOUND_SILENCE_MS);
        await new Promise((resolve) => setTimeout(resolve, ROOM_POLL_MS));
      }
      if (ending !== 'migrationRunning') throw new Error(`after case ${after} a sound VM: ${ending}`);
      await until(() => results().length > before, `the end of the sound VM after case ${after}`);
      const { scriptError, failures } = results().at(-1)?.result ?? {};
      if (scriptError !== '' || failures?.length !== 0)
        throw new Error(`after case ${after} a sound VM: ${scriptError} ${failures}`);
    };
    for (let number = 0; more(number); number++) {
      const prng = new Prng(seed + number * 7919);
      const mutate = MUTATIONS[MUTATION_NAMES[number % MUTATION_NAMES.length] as string] as Mutation;
      const running = results().length;
      const ending = await say(path, mutate([...frames], prng));
      endings[ending]++;
      // It runs, broken or not: its script ends by itself or by its time limit.
      if (ending === 'migrationRunning')
        await until(() => results().length > running, `the end of the VM of case ${number}`);
      if (number % SOUND_EVERY === SOUND_EVERY - 1) await sound(number);
    }
    await sound(-1);
  });
  return endings;
}
