/**
 * The C side: builds bench/c with gcc -O2 in a temporary folder, starts it, and requests one measurement at a time.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';

/** The folder bench/c, relative to this file in dist/bench. */
const SOURCES = join(import.meta.dirname, '..', '..', 'bench', 'c');

/** Returns the compiler's flags for GLib, or undefined if its headers are not installed. */
function glibFlags(): string[] | undefined {
  try {
    const out = execFileSync('pkg-config', ['--cflags', '--libs', 'glib-2.0'], {
      encoding: 'utf8',
      stdio: 'pipe',
    });
    return out.trim().split(/\s+/);
  } catch {
    return undefined;
  }
}

export class Rival {
  readonly hasGlib: boolean;
  readonly #folder: string;
  readonly #process: ChildProcess;
  readonly #lines: Interface;
  readonly #answers: AsyncIterator<string>;

  /** Builds and starts a program of bench/c. @throws Error if gcc is not installed */
  constructor(program = 'rival.c', programArguments: readonly string[] = []) {
    const glib = glibFlags();
    this.hasGlib = glib !== undefined;
    this.#folder = mkdtempSync(join(tmpdir(), 'mdevsim-bench-'));
    const binary = join(this.#folder, 'rival');
    const source = join(SOURCES, program);
    const flags = glib ? ['-DWITH_GLIB', source, ...glib] : [source];
    execFileSync('gcc', ['-O2', '-Wall', '-o', binary, ...flags], { stdio: 'inherit' });
    this.#process = spawn(binary, programArguments, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#lines = createInterface({ input: this.#process.stdout! });
    this.#answers = this.#lines[Symbol.asyncIterator]();
  }

  /** Sends one command. Resolves to nanoseconds per operation. */
  async ask(command: string): Promise<number> {
    this.#process.stdin!.write(`${command}\n`);
    const { value, done } = await this.#answers.next();
    if (done) throw new Error(`the C side ended at: ${command}`);
    return Number(value.split(' ')[0]);
  }

  close(): void {
    this.#process.stdin!.end();
    this.#lines.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
