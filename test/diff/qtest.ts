/**
 * Drives one QEMU process per machine with the qtest protocol over standard input and output. Distributions build QEMU
 * without `-accel qtest`, so this uses tcg: the guest's CPU runs a firmware that halts. With `-icount sleep=off` the
 * machine's clock jumps to its next timer while the CPU sleeps.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after } from '#host';
import type { VtdVector } from '../../src/conformance/vtd/vectors.ts';

/** Time limit for one answer. */
const ANSWER_LIMIT_MS = 20_000;
/** Characters of QEMU's standard error that are kept. */
const STDERR_LIMIT = 2000;
/** Characters of it that an error shows. */
const SHOWN_LIMIT = 300;

/** Thrown when QEMU is missing, died, did not answer or refused a command. */
export class QemuError extends Error {
  override name = 'QemuError';
}

const FIRMWARE_BYTES = 0x10000;
/** Offset of the reset vector, and its code: cli; hlt; jmp to the hlt. */
const RESET_OFFSET = 0xfff0;
const HALT_FOREVER = [0xfa, 0xf4, 0xeb, 0xfd];

/** Writes a firmware that only halts. @returns its path */
export async function writeFirmware(folder: string): Promise<string> {
  const path = join(folder, 'halt.bin');
  const image = Buffer.alloc(FIRMWARE_BYTES, 0xf4);
  image.set(HALT_FOREVER, RESET_OFFSET);
  await writeFile(path, image);
  return path;
}

export function machineArguments(firmware: string, vector: Pick<VtdVector, 'iommu' | 'devices'>): string[] {
  const { aw_bits, caching_mode } = vector.iommu;
  const unit = `intel-iommu,aw-bits=${aw_bits},caching-mode=${caching_mode ? 'on' : 'off'}`;
  const devices = (vector.devices ?? []).flatMap(({ bdf }) => [
    '-device',
    `edu,addr=${bdf.slice(3)},multifunction=on,dma_mask=0xffffffffffffffff`,
  ]);
  return [
    ...['-M', 'q35', '-accel', 'tcg', '-icount', 'shift=0,sleep=off', '-bios', firmware, '-m', '4G'],
    ...['-nodefaults', '-display', 'none', '-qtest', 'stdio', '-qtest-log', '/dev/null'],
    ...['-device', unit, ...devices],
  ];
}

interface Waiting {
  readonly command: string;
  readonly resolve: (answer: string) => void;
  readonly reject: (error: QemuError) => void;
}

export class Qtest {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #waiting: Waiting[] = [];
  readonly #ended: Promise<void>;
  #stderr = '';
  #failure: QemuError | undefined;

  constructor(program: string, args: readonly string[]) {
    this.#child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#child.stderr.on('data', (bytes: Buffer) => {
      if (this.#stderr.length < STDERR_LIMIT) this.#stderr += bytes.toString();
    });
    this.#child.stdin.on('error', () => this.#fail('closed its input'));
    createInterface({ input: this.#child.stdout }).on('line', (line) => this.#answered(line));
    this.#ended = new Promise((resolve) => {
      this.#child.on('error', (error) => {
        this.#fail(`could not be started: ${error.message}`);
        resolve();
      });
      this.#child.on('close', (code, signal) => {
        this.#fail(`ended (${signal ?? code})`);
        resolve();
      });
    });
  }

  /** Sends several commands without waiting in between. @returns their answers without "OK" @throws QemuError */
  async send(commands: readonly string[]): Promise<string[]> {
    if (this.#failure) throw this.#failure;
    const answers = commands.map(
      (command) => new Promise<string>((resolve, reject) => this.#waiting.push({ command, resolve, reject })),
    );
    const cancel = after(ANSWER_LIMIT_MS, () => this.#fail(`gave no answer in ${ANSWER_LIMIT_MS} ms`));
    this.#child.stdin.write(commands.map((command) => `${command}\n`).join(''));
    try {
      return await Promise.all(answers);
    } finally {
      cancel();
    }
  }

  async one(command: string): Promise<string> {
    const [answer = ''] = await this.send([command]);
    return answer;
  }

  /** Kills the process and waits for its end. */
  async close(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }

  #answered(line: string): void {
    const waiting = this.#waiting.shift();
    if (!waiting) return;
    if (line === 'OK' || line.startsWith('OK ')) waiting.resolve(line.slice(3));
    else waiting.reject(new QemuError(`QEMU answered "${line}" to "${waiting.command}"`));
  }

  #fail(what: string): void {
    const shown = this.#stderr === '' ? '' : `; stderr: ${this.#stderr.trim().slice(-SHOWN_LIMIT)}`;
    this.#failure ??= new QemuError(`QEMU ${what}${shown}`);
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure);
  }
}
