/**
 * Commands of the command buffer (specification section 2.4), decoded from their four words.
 */

import * as amdvi from '../../abi/amdvi.ts';
import { IOVA_LIMIT } from '../notifier.ts';

/** A command that affects what devices see. */
export type Invalidation =
  | { readonly kind: 'device'; readonly requesterId: number }
  | { readonly kind: 'pages'; readonly domainId: number; readonly start: number; readonly end: number }
  | { readonly kind: 'all' };

type Command =
  | Invalidation
  | {
      readonly kind: 'wait';
      /** GPA and the two words to store; undefined without s. */
      readonly store: { readonly gpa: number; readonly low: number; readonly high: number } | undefined;
      readonly interrupt: boolean;
    }
  /** Device TLBs, interrupt tables, prefetches and page requests: valid, but the unit has no cache for them. */
  | { readonly kind: 'none' };

/** A decoded command. `legal`: no reserved bit is set. QEMU executes some illegal commands. */
export interface Decoded {
  readonly command: Command | undefined;
  readonly legal: boolean;
  readonly opcode: number;
}

type Words = readonly [number, number, number, number];
const ALL = 0xffff_ffff;

/** Reserved bits of the four words. Word 1 has the opcode in bits 31:28. */
const RESERVED: Readonly<Record<number, Words>> = {
  [amdvi.COMPLETION_WAIT]: [0, 0x0ff0_0000, 0, 0],
  [amdvi.INVALIDATE_DEVTAB_ENTRY]: [0xffff_0000, 0x0fff_ffff, ALL, ALL],
  [amdvi.INVALIDATE_IOMMU_PAGES]: [0xfff0_0000, 0x0fff_0000, 0x0ff8, 0],
  [amdvi.INVALIDATE_IOTLB_PAGES]: [0, 0, 0x0fca, 0],
  [amdvi.INVALIDATE_INTERRUPT_TABLE]: [0xffff_0000, 0x0fff_ffff, ALL, ALL],
  [amdvi.PREFETCH_IOMMU_PAGES]: [0x00ff_0000, 0x0ff0_0000, 0x0fea, 0],
  [amdvi.COMPLETE_PPR_REQUEST]: [0xffff_0000, 0x0ff0_0000, 0xffff_fffb, 0xffff_0000],
  [amdvi.INVALIDATE_IOMMU_ALL]: [ALL, 0x0fff_ffff, ALL, ALL],
};

export function decodeCommand(words: Words): Decoded {
  const opcode = words[1] >>> amdvi.OPCODE_SHIFT;
  const reserved = RESERVED[opcode];
  if (!reserved) return { command: undefined, legal: false, opcode };
  const legal = reserved.every((mask, i) => ((words[i] as number) & mask) === 0);
  return { command: commandOf(opcode, words), legal, opcode };
}

function commandOf(opcode: number, [w0, w1, w2, w3]: Words): Command {
  switch (opcode) {
    case amdvi.COMPLETION_WAIT: {
      const gpa = (w1 & amdvi.HIGH_ADDRESS) * 2 ** 32 + (w0 - (w0 % 8));
      const store = (w0 & amdvi.WAIT_S) !== 0 ? { gpa, low: w2, high: w3 } : undefined;
      return { kind: 'wait', store, interrupt: (w0 & amdvi.WAIT_I) !== 0 };
    }
    case amdvi.INVALIDATE_DEVTAB_ENTRY:
      return { kind: 'device', requesterId: w0 & 0xffff };
    case amdvi.INVALIDATE_IOMMU_PAGES:
      return { kind: 'pages', domainId: w1 & 0xffff, ...rangeOf(w2, w3) };
    case amdvi.INVALIDATE_IOMMU_ALL:
      return { kind: 'all' };
    default:
      return { kind: 'none' };
  }
}

/** Returns the range of a size code (table 14): S = 0 is one page; else the lowest 0 at or above bit 12 encodes it. */
function rangeOf(low: number, high: number): { readonly start: number; readonly end: number } {
  const page = high * 2 ** 32 + (low - (low % 4096));
  if ((low & amdvi.PAGES_S) === 0) return { start: page, end: page + 4096 };
  let size = 2 ** 13;
  // 52 bits of address: all ones encode the whole address space.
  for (let rest = page / 4096; rest % 2 === 1; rest = Math.floor(rest / 2)) size *= 2;
  if (size >= IOVA_LIMIT) return { start: 0, end: IOVA_LIMIT };
  const start = page - (page % size);
  return { start, end: start + size };
}
