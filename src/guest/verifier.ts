/**
 * Checks of a guest's script: bytes against expected bytes, and conditions. Results go to the guest's journal at once.
 */
import { type GuestJournal, JournalLine } from '../channel/guest-journal.ts';
import { type Gpa, hex, PAGE_SIZE } from '../memory/address.ts';
import type { GuestRam } from '../memory/guest-ram.ts';
import { boundedText } from '../report/text.ts';

/** Collects the checks of a script. A failed check fails the run, but not the script. */
export class Verifier {
  readonly #ram: GuestRam;
  readonly #journal: GuestJournal;

  constructor(ram: GuestRam, journal: GuestJournal) {
    this.#ram = ram;
    this.#journal = journal;
  }

  /** Count of compared bytes. */
  get bytesVerified(): number {
    return this.#journal.get('bytesVerified');
  }

  /** Count of compared pages with a wrong byte. */
  get mismatches(): number {
    return this.#journal.get('mismatches');
  }

  /** Count of failed checks of conditions. */
  get checksFailed(): number {
    return this.#journal.get('checksFailed');
  }

  /** Compares pages of guest RAM with `expected`, which has the same size. A page that differs fails the run. */
  pages(pages: readonly Gpa[], expected: Uint8Array, what: string): void {
    pages.forEach((page, i) => {
      const want = expected.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE);
      this.#journal.add('bytesVerified', want.length);
      if (this.#ram.equals(page, want)) return;
      this.#journal.add('mismatches', 1);
      this.#journal.append(JournalLine.failure, boundedText(this.#describe(page, want, boundedText(what))));
    });
  }

  /** Records a failed check if `holds` is false. */
  check(holds: boolean, text: string): void {
    if (!holds) this.fail(text);
  }

  /** Records a failed check, which fails the run. */
  fail(text: string): void {
    this.#journal.add('checksFailed', 1);
    this.#journal.append(JournalLine.failure, boundedText(text));
  }

  #describe(page: Gpa, want: Uint8Array, what: string): string {
    const got = this.#ram.read(page, want.length);
    const at = got.findIndex((byte, i) => byte !== want[i]);
    const word = (bytes: Uint8Array) => Buffer.from(bytes.subarray(at & ~3, (at & ~3) + 4)).toString('hex');
    return `${what}: guest page ${hex(page)} byte ${at} holds ${word(got)}, expected ${word(want)}`;
  }
}
