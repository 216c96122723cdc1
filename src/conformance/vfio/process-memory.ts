/**
 * Memory of the recorder's process: a few buffers with a tag at the start of each page, and holes between them.
 */
import { hex, PAGE_SIZE, PERM_READ, PERM_RW, PERM_WRITE } from '../../memory/address.ts';
import { VfioError } from '../../vfio/errors.ts';
import type { PageFrame, UserMemory } from '../../vfio/uapi/user-memory.ts';

interface Buffer64 {
  readonly tag: number;
  readonly base: bigint;
  readonly pages: number;
  readonly perm: number;
}

/** Buffers by name. The recorded addresses are unknown; these are far enough apart that none reaches the next. */
const BUFFERS: Readonly<Record<string, Buffer64>> = {
  buf: { tag: 0, base: 0x7f00_0000_0000n, pages: 1024, perm: PERM_RW },
  buf2: { tag: 1, base: 0x7f00_4000_0000n, pages: 1024, perm: PERM_RW },
  robuf: { tag: 2, base: 0x7f00_8000_0000n, pages: 64, perm: PERM_READ },
  hole: { tag: 3, base: 0x7f00_c000_0000n, pages: 0, perm: 0 },
  nonebuf: { tag: 4, base: 0x7f01_0000_0000n, pages: 64, perm: 0 },
  shbuf: { tag: 5, base: 0x7f01_4000_0000n, pages: 64, perm: PERM_RW },
};

const TAG_MARK = 0x7a6n;
const TAG_BUFFER_SHIFT = 40n;
const TAG_MARK_SHIFT = 52n;
const BITS_12 = 0xfffn;
const BITS_40 = 0xff_ffff_ffffn;

/** Converts a symbolic address (`buf+0x1000`, `hole-0x4000`, `0x0`). Returns undefined if it is invalid. */
export function addressOfSymbol(text: string): bigint | undefined {
  if (/^0x[0-9a-f]{1,16}$/i.test(text)) return BigInt(text);
  const [, name = '', sign, offset = '0x0'] = /^(\w+?)(?:([+-])(0x[0-9a-f]+))?$/i.exec(text) ?? [];
  const buffer = BUFFERS[name];
  if (!buffer) return undefined;
  return sign === '-' ? buffer.base - BigInt(offset) : buffer.base + BigInt(offset);
}

/** Returns the name of a page by its first eight bytes: `buf+0x1000`, or `data:0x…` if they are not a tag. */
export function pageName({ bytes }: PageFrame): string {
  const tag = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
  const number = Number((tag >> TAG_BUFFER_SHIFT) & BITS_12);
  const buffer = Object.entries(BUFFERS).find(([, candidate]) => candidate.tag === number);
  if (tag >> TAG_MARK_SHIFT !== TAG_MARK || !buffer) return `data:${hex(tag)}`;
  return `${buffer[0]}+${hex((tag & BITS_40) * BigInt(PAGE_SIZE))}`;
}

interface Page {
  readonly perm: number;
  frame: PageFrame;
}

/** Memory of one process. */
export class ProcessMemory implements UserMemory {
  alive = true;
  locksFreely = true;
  /** Count of pages that it may lock if not `locksFreely`. */
  lockLimit = Number.POSITIVE_INFINITY;
  locked = 0;
  readonly #pages = new Map<number, Page>();

  /** Creates a process with all buffers in their first state. */
  static fresh(): ProcessMemory {
    const memory = new ProcessMemory();
    for (const { tag, base, pages, perm } of Object.values(BUFFERS))
      for (let page = 0; page < pages; page++)
        memory.#pages.set(Number(base / BigInt(PAGE_SIZE)) + page, { perm, frame: taggedFrame(tag, page) });
    return memory;
  }

  /** Creates a child with a copy of the memory. It counts its own locked pages, from 0. */
  fork(): ProcessMemory {
    const child = new ProcessMemory();
    child.locksFreely = this.locksFreely;
    child.lockLimit = this.lockLimit;
    for (const [vpage, { perm, frame }] of this.#pages)
      child.#pages.set(vpage, { perm, frame: { bytes: frame.bytes.slice() } });
    return child;
  }

  pin(vpage: number, write: boolean): PageFrame {
    const page = this.#page(vpage, write ? PERM_RW : PERM_READ);
    if (!page) throw new VfioError('EFAULT', `virtual page ${hex(vpage)} cannot be pinned`);
    return page.frame;
  }

  copyIn(vpage: number, offset: number, source: Uint8Array): number {
    return this.#copy(vpage, offset, source.length, PERM_WRITE, (bytes, at) =>
      bytes.set(source.subarray(at, at + bytes.length)),
    );
  }

  copyOut(vpage: number, offset: number, target: Uint8Array): number {
    return this.#copy(vpage, offset, target.length, PERM_READ, (bytes, at) => target.set(bytes, at));
  }

  lock(pages: number, freely: boolean): void {
    if (pages > 0 && !freely && this.locked + pages > this.lockLimit)
      throw new VfioError(
        'ENOMEM',
        `${this.locked} + ${pages} locked pages; accepted: at most ${this.lockLimit}`,
      );
    this.locked += pages;
  }

  unmap(vpage: number, pages: number): void {
    for (let page = vpage; page < vpage + pages; page++) this.#pages.delete(page);
  }

  mapZeros(vpage: number, pages: number, perm: number): void {
    for (let page = vpage; page < vpage + pages; page++)
      this.#pages.set(page, { perm, frame: { bytes: new Uint8Array(PAGE_SIZE) } });
  }

  #page(vpage: number, perm: number): Page | undefined {
    const page = this.#pages.get(vpage);
    return page && (page.perm & perm) === perm ? page : undefined;
  }

  #copy(
    vpage: number,
    offset: number,
    length: number,
    perm: number,
    move: (bytes: Uint8Array, at: number) => void,
  ): number {
    let at = 0;
    for (let page = vpage, from = offset; at < length; page++, from = 0) {
      const found = this.#page(page, perm);
      if (!found) break;
      const piece = Math.min(PAGE_SIZE - from, length - at);
      move(found.frame.bytes.subarray(from, from + piece), at);
      at += piece;
    }
    return at;
  }
}

/** Creates a page with its tag. The bytes are allocated at the first access: few pages of a buffer are accessed. */
function taggedFrame(tag: number, page: number): PageFrame {
  let made: Uint8Array | undefined;
  return {
    get bytes(): Uint8Array {
      if (!made) {
        made = new Uint8Array(PAGE_SIZE);
        const value = (TAG_MARK << TAG_MARK_SHIFT) | (BigInt(tag) << TAG_BUFFER_SHIFT) | BigInt(page);
        new DataView(made.buffer).setBigUint64(0, value, true);
      }
      return made;
    },
  };
}
