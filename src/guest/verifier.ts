/**
 * What a guest's script has checked: bytes against expectation, statements against truth.
 */
import { type Gpa, hex, PAGE_SIZE } from '../memory/address.ts';
import type { GuestRam } from '../memory/guest-ram.ts';

/** Failed checks kept in words; the rest are counted. */
const FAILURE_LIMIT = 16;

export class Verifier {
  bytesVerified = 0;
  mismatches = 0;
  readonly failures: string[] = [];
  readonly #ram: GuestRam;

  constructor(ram: GuestRam) {
    this.#ram = ram;
  }

  /** Compares pages of guest RAM with `expected` (as many pages). */
  pages(pages: readonly Gpa[], expected: Uint8Array, what: string): void {
    pages.forEach((page, i) => {
      const want = expected.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE);
      this.bytesVerified += want.length;
      if (!this.#ram.equals(page, want)) this.fail(this.#describe(page, want, what));
    });
  }

  /** Records a failed check unless `holds`. */
  check(holds: boolean, text: string): void {
    if (!holds) this.fail(text);
  }

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
