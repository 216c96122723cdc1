/**
 * The range of addresses of interrupt messages on x86. A write to it is an interrupt request and is never translated, so
 * no container holds it.
 */
import { type Gpa, type Iova, offsetBy } from '../memory/address.ts';
import type { TranslationVisitor } from './notifier.ts';

const START = 0xfee0_0000;
const END = 0xfef0_0000;

export const isInterruptAddress = (iova: number): boolean => iova >= START && iova < END;

/** Visits the parts of a translation outside the interrupt range. Returns false if the visitor has ended the walk. */
export function visitOutsideInterrupts(
  iova: Iova,
  gpa: Gpa,
  size: number,
  perm: number,
  visit: TranslationVisitor,
): boolean {
  const end = iova + size;
  if (iova >= END || end <= START) return visit(iova, gpa, size, perm) !== false;
  if (iova < START && visit(iova, gpa, START - iova, perm) === false) return false;
  if (end <= END) return true;
  const skipped = END - iova;
  return visit(END as Iova, offsetBy(gpa, skipped), size - skipped, perm) !== false;
}
