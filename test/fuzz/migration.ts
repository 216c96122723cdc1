/**
 * Sends broken migration streams to a host. The host must refuse an invalid VM, release its resources, and accept the
 * next VM.
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
import { VM_TIMEOUT_MS, vmEnd, withHosts } from '../e2e/migration-hosts.ts';
import { until } from '../support/until.ts';

/** Time without an answer after which a broken stream, or a valid one, counts as unanswered. */
const SILENCE_MS = 1_000;
const VALID_SILENCE_MS = 20_000;
/** Time limit of the recorded script, and of the VMs that arrive. The script of a broken VM may wait forever. */
const RECORDED_SCRIPT_MS = 60_000;
const SCRIPT_MS = 10_000;
/** Time limit for a host to release earlier VMs and have capacity again, and the interval of the attempts. */
const CAPACITY_MS = 60_000;
const CAPACITY_POLL_MS = 100;
/** A valid stream must be accepted after this many broken ones. */
const VALID_EVERY = 10;

const header = (device: number): FrameHeader => ({ timeUs: 0, process: 1, vm: 0, device });

/** Records the frames that a source sends to a host that accepts everything. */
export async function recordStream(viommu: string): Promise<Uint8Array[]> {
  const frames: Uint8Array[] = [];
  await withHosts({ viommu, timeoutMs: RECORDED_SCRIPT_MS }, async (hosts) => {
    const { sockets, start } = hosts;
    const server = createServer((socket) => void agree(socket, frames));
    await new Promise<void>((resolve) => {
      server.listen(sockets[1], resolve);
    });
    start(0);
    await vmEnd(hosts, 0);
    server.close();
  });
  return frames.map(withScriptLimit);
}

/** Sets the time limit of the arriving script. The recorded limit is what the source had left. */
function withScriptLimit(bytes: Uint8Array): Uint8Array {
  const frame = decodeFrame(bytes);
  if (frame.kind !== 'migrationStart') return bytes;
  const config = { ...JSON.parse(frame.body.config), timeoutMs: SCRIPT_MS };
  return encodeFrame(frame.header, frame.kind, { ...frame.body, config: JSON.stringify(config) });
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

const copyOf = (frames: readonly Uint8Array[]): Uint8Array[] => frames.map((frame) => new Uint8Array(frame)); // Buffer.slice would share the bytes

/** Mutations of a stream, by name. */
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
  // Most bytes are RAM, where every change is valid. Only bit flips in the small frames test something.
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

/** Outcome of a stream: the host's last answer, silence, or a closed connection. */
type Ending = 'migrationFailed' | 'migrationRunning' | 'silence' | 'closed';

/** Sends frames and returns the host's reaction. */
async function sendStream(
  path: string,
  frames: readonly Uint8Array[],
  silenceMs = SILENCE_MS,
): Promise<Ending> {
  const socket = connect(path);
  let pending = Buffer.alloc(0);
  let ending: Ending | undefined;
  let answeredAt = performance.now();
  socket.on('error', () => {
    ending ??= 'closed';
  });
  socket.on('close', () => {
    ending ??= 'closed';
  });
  socket.on('data', (chunk: Buffer) => {
    answeredAt = performance.now();
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
  while (!ending && performance.now() - answeredAt < silenceMs)
    await new Promise((resolve) => setTimeout(resolve, 5));
  socket.destroy();
  return ending ?? 'silence';
}

/** Count of broken streams by outcome. */
export type Endings = Readonly<Record<Ending, number>>;

/**
 * Breaks a recorded stream while `more` returns true. A case depends only on its number and `seed`.
 * @throws Error when the host does not accept a valid VM after broken ones
 */
export async function fuzzMigration(
  viommu: string,
  frames: readonly Uint8Array[],
  seed: number,
  more: (number: number) => boolean,
): Promise<Endings> {
  const endings = { migrationFailed: 0, migrationRunning: 0, silence: 0, closed: 0 };
  await withHosts({ viommu, timeoutMs: SCRIPT_MS }, async ({ sockets, start, received }) => {
    const path = sockets[1] as string;
    start(1);
    await until(() => existsSync(path), 'the host', VM_TIMEOUT_MS);
    const results = () => received[1]?.results ?? [];
    const expectAccepted = async (after: number) => {
      const before = results().length;
      let ending: Ending = 'silence';
      const deadline = performance.now() + CAPACITY_MS;
      while (ending !== 'migrationRunning' && performance.now() < deadline) {
        ending = await sendStream(path, frames, VALID_SILENCE_MS);
        await new Promise((resolve) => setTimeout(resolve, CAPACITY_POLL_MS));
      }
      if (ending !== 'migrationRunning')
        throw new Error(`case ${after}: the next valid VM is not accepted: ${ending}`);
      await until(
        () => results().length > before,
        `the end of the valid VM after case ${after}`,
        VM_TIMEOUT_MS,
      );
      const { scriptError, failures } = results().at(-1)?.result ?? {};
      if (scriptError !== '' || failures?.length !== 0)
        throw new Error(`case ${after}: the next valid VM fails: ${scriptError} ${failures}`);
    };
    for (let number = 0; more(number); number++) {
      const prng = new Prng(seed + number * 7919);
      const mutate = MUTATIONS[MUTATION_NAMES[number % MUTATION_NAMES.length] as string] as Mutation;
      const running = results().length;
      const ending = await sendStream(path, mutate([...frames], prng));
      endings[ending]++;
      // The VM runs, broken or not. Its script ends by itself or by its time limit.
      if (ending === 'migrationRunning')
        await until(() => results().length > running, `the end of the VM of case ${number}`, VM_TIMEOUT_MS);
      if (number % VALID_EVERY === VALID_EVERY - 1) await expectAccepted(number);
    }
    await expectAccepted(-1);
  });
  return endings;
}
