import { expect } from 'chai';
import { describe, it } from 'mocha';
import { Layout, LayoutError } from '../../src/vfio-user/layout.ts';
import * as protocol from '../../src/vfio-user/protocol.ts';

/** A layout without its field types. */
interface AnyLayout {
  readonly name: string;
  readonly size: number;
  readonly fields: Readonly<Record<string, readonly [number, string]>>;
}
type SpecifiedLayout = readonly [AnyLayout, size: number, offsets: readonly number[]];

/** Offsets and sizes of the specification's tables, and of `linux/vfio.h`. */
const SPECIFIED: readonly SpecifiedLayout[] = [
  [protocol.HEADER, 16, [0, 2, 4, 8, 12]],
  [protocol.VERSION, 4, [0, 2]],
  [protocol.DMA_MAP, 32, [0, 4, 8, 16, 24]],
  [protocol.DMA_UNMAP, 24, [0, 4, 8, 16]],
  [protocol.DEVICE_INFO, 16, [0, 4, 8, 12]],
  [protocol.REGION_INFO, 32, [0, 4, 8, 12, 16, 24]],
  [protocol.SPARSE_MMAP, 16, [0, 2, 4, 8, 12]],
  [protocol.SPARSE_AREA, 16, [0, 8]],
  [protocol.REGION_IO_FDS, 16, [0, 4, 8, 12]],
  [protocol.IRQ_INFO, 16, [0, 4, 8, 12]],
  [protocol.SET_IRQS, 20, [0, 4, 8, 12, 16]],
  [protocol.REGION_ACCESS, 16, [0, 8, 12]],
  [protocol.WRITE_MULTI, 8, [0]],
  [protocol.DMA_ACCESS, 16, [0, 8]],
  [protocol.DEVICE_FEATURE, 8, [0, 4]],
  [protocol.MIGRATION, 8, [0]],
  [protocol.MIG_STATE, 8, [0, 4]],
  [protocol.MIG_DATA, 8, [0, 4]],
  [protocol.LOGGING_CONTROL, 16, [0, 8, 12]],
  [protocol.LOGGING_RANGE, 16, [0, 8]],
  [protocol.LOGGING_REPORT, 24, [0, 8, 16]],
];

describe('layouts of vfio-user', () => {
  for (const [layout, size, offsets] of SPECIFIED)
    it(`have ${layout.name} as specified`, () => {
      expect(layout.size).to.equal(size);
      expect(Object.values(layout.fields).map(([offset]) => offset)).to.deep.equal(offsets);
    });

  it('include every declared layout', () => {
    const declared = Object.values(protocol).filter((value) => value instanceof Layout);
    expect(SPECIFIED.map(([{ name }]) => name)).to.have.members(declared.map(({ name }) => name));
  });

  it('read what they write, at any offset', () => {
    const values = { argsz: 32, flags: 3, offset: 2n ** 64n - 1n, address: 0x1234_5678_9abcn, size: 4096n };
    const bytes = new Uint8Array(40);
    protocol.DMA_MAP.write(bytes, values, 5);
    expect(protocol.DMA_MAP.read(bytes, 5)).to.deep.equal(values);
    expect(bytes[5]).to.equal(32);
  });

  it('refuse gaps, overlaps and a wrong size when they are declared', () => {
    expect(() => new Layout('gap', 8, { a: [0, 'u16'], b: [4, 'u32'] })).to.throw(
      LayoutError,
      'gap.b is at 4',
    );
    expect(() => new Layout('overlap', 6, { a: [0, 'u32'], b: [2, 'u32'] })).to.throw(
      LayoutError,
      'accepted: 4',
    );
    expect(() => new Layout('size', 9, { a: [0, 'u64'] })).to.throw(LayoutError, 'end at 8');
  });
});
