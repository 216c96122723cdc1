/**
 * The progress of a run on stderr. On a terminal, a block of lines that is redrawn in place; elsewhere one line every few
 * seconds, and one for a new phase.
 */
import type { createLogUpdate } from 'log-update';
import { every, nowUs } from '#host';
import type { LiveLoad } from '../report/live.ts';
import { type HostProgress, liveLine, liveLines } from '../report/live-text.ts';

/** Interval of redraws on a terminal. */
const REDRAW_MS = 250;
const DEFAULT_COLUMNS = 80;
const DEFAULT_ROWS = 24;
/** Least and longest time between two lines where there is no terminal. */
const LINE_LEAST_MS = 1_000;
const LINE_LONGEST_MS = 5_000;

interface ProgressOptions {
  readonly title: string;
  /** Without any output. */
  readonly quiet: boolean;
  /** Returns the state of the load; undefined before the run starts. */
  load(): LiveLoad | undefined;
}

export interface Progress {
  /** True if the output of scripts and models must be printed by {@link print}, because it would tear the block apart. */
  readonly takesOutput: boolean;
  show(hosts: HostProgress): void;
  /** Prints a text that stays. */
  print(text: string): void;
  /** As {@link print}, also with `--quiet`. */
  warn(text: string): void;
  end(): void;
}

/** Resolves to the progress that suits stderr. The library is loaded for a terminal alone. */
export async function progressOf(options: ProgressOptions): Promise<Progress> {
  if (options.quiet) return QUIET;
  const canRedraw = process.stderr.isTTY && process.env.TERM !== 'dumb';
  if (!canRedraw) return new LineProgress(options);
  const { createLogUpdate } = await import('log-update');
  // The cursor stays visible: restoring it would take handlers for the signals that end a run.
  return new LiveProgress(options, createLogUpdate(process.stderr, { showCursor: true }));
}

const QUIET: Progress = {
  takesOutput: false,
  show: () => {},
  print: () => {},
  warn: (text) => void process.stderr.write(text),
  end: () => {},
};

class LiveProgress implements Progress {
  readonly takesOutput: boolean = true;
  readonly #options: ProgressOptions;
  readonly #update: ReturnType<typeof createLogUpdate>;
  readonly #stop: () => void;
  #hosts: HostProgress | undefined;

  constructor(options: ProgressOptions, update: ReturnType<typeof createLogUpdate>) {
    this.#options = options;
    this.#update = update;
    this.#stop = every(REDRAW_MS, () => this.#draw());
  }

  show(hosts: HostProgress): void {
    this.#hosts = hosts;
  }

  print(text: string): void {
    this.#update.clear();
    process.stderr.write(text.endsWith('\n') ? text : `${text}\n`);
    this.#draw();
  }

  warn(text: string): void {
    this.print(text);
  }

  end(): void {
    this.#stop();
    this.#update.clear();
  }

  #draw(): void {
    const load = this.#options.load();
    if (!this.#hosts || !load) return;
    const { columns, rows } = process.stderr;
    const lines = liveLines(this.#options.title, this.#hosts, load, columns || DEFAULT_COLUMNS);
    // The last row stays free for the cursor.
    this.#update(lines.slice(0, Math.max(1, (rows || DEFAULT_ROWS) - 1)).join('\n'));
  }
}

class LineProgress implements Progress {
  readonly takesOutput: boolean = false;
  readonly #options: ProgressOptions;
  #phase = '';
  #last = '';
  #lastUs = Number.NEGATIVE_INFINITY;

  constructor(options: ProgressOptions) {
    this.#options = options;
  }

  show(hosts: HostProgress): void {
    const load = this.#options.load();
    if (!load) return;
    const phase = load.seconds === undefined ? '' : hosts.phase;
    const ms = (nowUs() - this.#lastUs) / 1000;
    if (ms < (phase === this.#phase ? LINE_LONGEST_MS : LINE_LEAST_MS)) return;
    const line = liveLine(hosts, load);
    if (line === this.#last) return;
    process.stderr.write(`${line}\n`);
    [this.#phase, this.#last, this.#lastUs] = [phase, line, nowUs()];
  }

  print(text: string): void {
    process.stderr.write(text);
  }

  warn(text: string): void {
    this.print(text);
  }

  end(): void {}
}
