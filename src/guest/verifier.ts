/**
 * Checks of a guest's script: bytes against expected bytes, and conditions.
 */
import { type Gpa, hex, PAGE_SIZE } from '../memory/address.ts';
import type { GuestRam } from '../memory/guest-ram.ts';

/** Limit of kept messages; further failed checks are only counted. */
const FAILURE_LIMIT = 16;

/** Collects the checks of a script. A failed check fails the run, but not the script. */
export class Verifier {
  /** Count of compared bytes. */
  bytesVerified = 0;
  /** Count of failed checks. */
  mismatches = 0;
  /** Messages of the first failed checks. */
  readonly failures: string[] = [];
  readonly #ram: GuestRam;

  constructor(ram: GuestRam) {
    this.#ram = ram;
  }

  /** Compares pages of guest RAM with `expected`, which has the same size. A page that differs is a failed check. */
  pages(pages: readonly Gpa[], expected: Uint8Array, what: string): void {
    pages.forEach((page, i) => {
      const want = expected.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE);
      this.bytesVerified += want.length;
      if (!this.#ram.equals(page, want)) this.fail(this.#describe(page, want, what));
    });
  }

  /** Records a failed check if `holds` is false. */
  check(holds: boolean, text: string): void {
    if (!holds) this.fail(text);
  }

  /** Records a failed check, which fails the run. */
  fail(text: string): void {
    this.mismatches++;
    if (this.failures.length < FAILURE_LIMIT) this.failures.push(text);
  }

  #describe(page: Gpa, want: Uint8Array, what: string): string {
    const got = this.#ram.read(page, want.length);
    const at = got.findIndex((byte, i) => byte !== want[i]);
    const word = (bytes: Uint8Array) => Buffer.from(bytes.subarray(at & ~3, (at & ~3) + 4)).toString('hex');
    return `${what}: guest page ${hex(page)} byte ${at} holds ${word(got)}, expected ${word(want)}`;
  }
}
