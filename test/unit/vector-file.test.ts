import { execFileSync } from 'node:child_process';
import { truncateSync, writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { runKind } from '../../src/conformance/kinds.ts';
import { VectorFileError } from '../../src/conformance/vfio/vector-file.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const MIB = 2 ** 20;
const vtd = (...steps: object[]) =>
  JSON.stringify([
    { name: 'x', iommu: { caching_mode: true, aw_bits: 48 }, device: { bdf: '00:04.0' }, steps },
  ]);
const vfio = (...steps: object[]) => JSON.stringify({ section: 'T', vectors: [{ name: 't', steps }] });

/** Page table at 0x3000 of which every entry leads to the table itself: 2^36 pages. */
const selfReference = vtd(
  { op: 'mem_write', gpa: '0x1000', data: '0120000000000000' },
  { op: 'mem_write', gpa: '0x2200', data: '01300000000000000201000000000000' },
  { op: 'mem_write', gpa: '0x3000', data: '0330000000000000'.repeat(512) },
  { op: 'reg_write', off: '0x20', size: 8, value: '0x1000' },
  { op: 'reg_write', off: '0x18', size: 4, value: '0x40000000' },
  { op: 'reg_write', off: '0x18', size: 4, value: '0x80000000' },
);

describe('vector files that cannot be run', () => {
  const at = temporaryFolder();

  const refused: readonly (readonly [what: string, kind: string, content: string, message: RegExp])[] = [
    ['an empty file', 'vtd', '', /not JSON/],
    ['another value than a list', 'vtd', 'null', /not an array of vectors/],
    ['lists nested without end', 'vtd', '['.repeat(MIB), /nested too deeply; accepted: up to 64/],
    ['objects without end', 'spapr', `[${'{},'.repeat(MIB)}{}]`, /too many values; accepted: up to 1000000/],
    [
      'control characters in a name',
      'vtd',
      '[{"name":"\u001b[31m\\nx","steps":[1]}]'.replace('\u001b', '\\u001b'),
      /\\u001b\[31m\\nx/,
    ],
    ['a page table that maps itself', 'vtd', selfReference, /more than \d+ mappings of a device/],
    ['vfio vectors without a vector', 'vfio', '{"section":"T","vectors":[]}', /no vectors/],
    ['a vfio vector without steps', 'vfio', vfio(), /t has no steps/],
    [
      'an unknown field of a vfio step',
      'vfio',
      vfio({ op: 'vmlck', errnoo: null }),
      /step 0 "errnoo": unknown field/,
    ],
    [
      'an unknown field of a vfio vector',
      'vfio',
      '{"section":"T","vectors":[{"name":"t","step":[],"steps":[]}]}',
      /has no steps|step/,
    ],
    [
      'an unmap of the whole address space',
      'vfio',
      vfio({ op: 'mem_munmap', vaddr: 'buf', size: '0xfffffffffffff000' }),
      /"size" is .* up to 4096 pages/,
    ],
  ];
  for (const [what, kind, content, message] of refused)
    it(`${what}: refused in one line`, () => {
      writeFileSync(at('vectors.json'), content);
      expect(() => runKind(kind, at('vectors.json'), 'spec'))
        .to.throw(VectorFileError, message)
        .with.property('message')
        .that.does.not.include('\n');
    });

  it('reads hexadecimal digits up to the limit of the file', () => {
    const data = 'ab'.repeat(7 * MIB);
    writeFileSync(at('vectors.json'), vtd({ op: 'mem_write', gpa: '0x0', data }));
    expect(runKind('vtd', at('vectors.json'), 'spec')).to.have.lengthOf(1);
  });

  it('unpacks no more than the limit', () => {
    writeFileSync(at('bomb.json.gz'), gzipSync(Buffer.alloc(64 * MIB)));
    expect(() => runKind('vtd', at('bomb.json.gz'), 'spec')).to.throw(VectorFileError, /bytes unpacked/);
    writeFileSync(at('text.json.gz'), 'text');
    expect(() => runKind('vtd', at('text.json.gz'), 'spec')).to.throw(VectorFileError, /gzip: /);
  });

  it('reads neither a large file nor a FIFO nor a device', () => {
    writeFileSync(at('large.json'), '');
    truncateSync(at('large.json'), 2 ** 33);
    expect(() => runKind('vtd', at('large.json'), 'spec')).to.throw(VectorFileError, /8589934592 bytes/);
    execFileSync('mkfifo', [at('fifo.json')]);
    for (const path of [at('fifo.json'), '/dev/zero', at()])
      expect(() => runKind('vtd', path, 'spec')).to.throw(VectorFileError, /not a regular file/);
  });
});
