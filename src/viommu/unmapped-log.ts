/**
 * Log of the translations that a device's container could not take, for the report: a guest cannot see that.
 */
import { hex, type Iova } from '../memory/address.ts';
import type { Translation } from './notifier.ts';

/** Translations kept of each kind; of further ones the log only says that there are more. */
const UNMAPPED_LIMIT = 4;

interface Entry {
  readonly iova: Iova;
  readonly text: string;
}

/** Translations of one device that were not mapped, each with its reason. */
export class UnmappedLog {
  readonly #outside: Entry[] = [];
  readonly #refused: Entry[] = [];
  #more = false;

  /** Adds a translation of which a part, or all, lies outside guest RAM. `gpa` need not be RAM. */
  outsideRam({ iova, gpa, size }: Translation, partly: boolean): void {
    if (!this.#isNew(this.#outside, iova)) return;
    const rest = partly
      ? 'only the part in guest RAM is mapped'
      : 'not mapped, because that is not guest RAM';
    const text = `IOVA ${hex(iova)} +${hex(size)} leads to GPA ${hex(gpa)}: ${rest}`;
    this.#outside.push({ iova, text });
  }

  /** Adds a translation that the container refused. */
  refused({ iova, size }: Pick<Translation, 'iova' | 'size'>, reason: string): void {
    if (!this.#isNew(this.#refused, iova)) return;
    this.#refused.push({ iova, text: `IOVA ${hex(iova)} +${hex(size)} not mapped: ${reason}` });
  }

  /** The log as lines, refusals first. */
  lines(): string[] {
    const lines = [...this.#refused, ...this.#outside].map(({ text }) => text);
    return this.#more ? [...lines, 'and more translations that are not mapped'] : lines;
  }

  /** Returns whether to keep a translation. The same one comes again with each invalidation that covers it. */
  #isNew(entries: readonly Entry[], iova: Iova): boolean {
    if (entries.some((entry) => entry.iova === iova)) return false;
    if (entries.length < UNMAPPED_LIMIT) return true;
    this.#more = true;
    return false;
  }
}
