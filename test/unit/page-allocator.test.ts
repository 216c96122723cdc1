import { expect } from 'chai';
import { describe, it } from 'mocha';
import { PageAllocator, PageAllocatorExhausted, PageNotAllocated } from '../../src/guest/page-allocator.ts';
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
});
