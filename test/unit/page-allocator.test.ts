import { expect } from 'chai';
import { describe, it } from 'mocha';
import { PageAllocator, PageAllocatorExhausted, PageNotAllocated } from '../../src/guest/page-allocator.ts';
import { PAGE_SIZE } from '../../src/memory/address.ts';
import { MIB, smallRam } from '../fixtures/recording-notifier.ts';

describe('guest page allocator', () => {
  it('returns zeroed pages, the last freed first, and throws when none is left', () => {
    const ram = smallRam();
    const pages = new PageAllocator(ram, 0x1000, 0x3000);
    const [a, b] = [pages.allocate(), pages.allocate()];
    ram.write32(a, 7);
    pages.free(b);
    pages.free(a);
    expect(pages.allocate()).to.equal(a);
    expect(ram.read32(a)).to.equal(0);
    expect(() => pages.free(b)).to.throw(PageNotAllocated);
    pages.allocate();
    pages.allocate();
    expect(() => pages.allocate()).to.throw(PageAllocatorExhausted, '4 KiB page');
    expect(() => pages.allocateBlock()).to.throw(PageAllocatorExhausted, '2 MiB block');
  });

  it('aligns blocks, and keeps them separate from pages', () => {
    const pages = new PageAllocator(smallRam(), 0x1000, 5 * MIB);
    const page = pages.allocate();
    expect(pages.allocateBlock()).to.equal(2 * MIB);
    expect(page).to.equal(0x1000);
    expect(() => pages.allocateBlock()).to.throw(PageAllocatorExhausted);
  });

  it('returns freed blocks as blocks, and frees nothing twice', () => {
    const pages = new PageAllocator(smallRam(), 0x1000, 5 * MIB);
    const [page, block] = [pages.allocate(), pages.allocateBlock()];
    pages.free(block);
    expect(() => pages.free(block)).to.throw(PageNotAllocated);
    expect(pages.allocate(), 'not the block').to.equal(page + PAGE_SIZE);
    expect(pages.allocateBlock()).to.equal(block);
    for (let at = page + 2 * PAGE_SIZE; at < block; at += PAGE_SIZE) expect(pages.allocate()).to.equal(at);
    expect(() => pages.allocate(), 'no page of the block').to.throw(PageAllocatorExhausted);
  });

  it('continues on another host where it was', () => {
    const ram = smallRam();
    const pages = new PageAllocator(ram, 0x1000, 7 * MIB);
    const made = [pages.allocate(), pages.allocate(), pages.allocate()];
    const blocks = [pages.allocateBlock(), pages.allocateBlock()];
    for (const gpa of [made[2], made[0], blocks[0]]) pages.free(gpa as number);
    const there = PageAllocator.restore(ram, 0x1000, 7 * MIB, pages.save());
    for (const each of [pages, there]) each.free(blocks[1] as number);
    const next = (each: PageAllocator) => [
      each.allocateBlock(),
      each.allocateBlock(),
      each.allocate(),
      each.allocate(),
      each.allocate(),
    ];
    expect(next(there)).to.deep.equal(next(pages));
  });
});
