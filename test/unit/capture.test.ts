import { gzipSync } from 'node:zlib';
import { expect } from 'chai';
import { after, describe, it } from 'mocha';
import { CaptureError, LINE_BYTES_LIMIT, readCapture } from '../../src/conformance/vfio-user/capture.ts';
import {
  clampRange,
  PROBLEMS_KEPT,
  type ReplayResult,
  replayCapture,
} from '../../src/conformance/vfio-user/replay.ts';
import { PAGE_2M, PAGE_SIZE } from '../../src/memory/address.ts';
import { TABLE_IOVA_LIMIT } from '../../src/pin-table/layout.ts';
import { VfioError } from '../../src/vfio/errors.ts';
import {
  CaptureFolder,
  eof,
  HEAD,
  header,
  MEMFD,
  map,
  memory,
  unmap,
  unmapAll,
} from '../fixtures/capture-files.ts';

const folder = new CaptureFolder();
after(() => folder.remove());

async function errorOf(file: string): Promise<CaptureError> {
  try {
    for await (const _event of readCapture(file));
  } catch (error) {
    if (error instanceof CaptureError) return error;
    throw error;
  }
  throw new Error(`${file} was accepted as a complete capture`);
}

const isJson = (text: string): boolean => {
  try {
    return typeof JSON.parse(text) === 'object';
  } catch {
    return false;
  }
};

describe('readCapture', () => {
  const bad: readonly [what: string, lines: readonly string[], line: number, expected: RegExp][] = [
    ['no header', [memory, eof(0)], 1, /expected a capture header/],
    ['a header without a name', ['{"capture":1}', eof(0)], 1, /expected a capture header/],
    ['text', ['Hello, world', eof(0)], 1, /not JSON: "Hello, world"; expected a capture header on one line/],
    ['a JSON array', ['[1]'], 1, /\[1\]; expected a capture header/],
    ['an invalid line in the middle', [header, '{"cmd":', eof(0)], 2, /not JSON.*expected a JSON object/],
    ['an empty line', [header, '', eof(0)], 2, /expected a JSON object/],
    ['no eof line', HEAD, 2, /ends here; expected an eof line with liveMaps/],
    ['only a header', [header], 1, /expected an eof line/],
    ['lines after eof', [...HEAD, eof(0), eof(0)], 4, /expected nothing after the eof line/],
    ['an eof line without its count', [...HEAD, '{"ev":"eof"}'], 3, /"liveMaps" is missing; expected an int/],
    ['an unknown event', [header, '{"ev":"pause"}', eof(0)], 2, /"ev" is "pause"; expected "accept", "mmap"/],
    ['neither event nor request', [header, '{}', eof(0)], 2, /expected a request with "cmd"/],
    ['a second memfd', [...HEAD, memory, eof(0)], 3, /second mmap event; expected one memfd/],
    ['an fd without a memfd', [header, map(0, PAGE_SIZE, 0), eof(0)], 2, /expected an mmap event/],
    [
      'a memfd of 3 GiB',
      [header, '{"ev":"mmap","size":"0xc0000000"}', eof(0)],
      2,
      /memfd of 3221225472 bytes; expected a multiple of 2 MiB up to 2 GiB/,
    ],
    [
      'a number for a hex string',
      [...HEAD, '{"cmd":"DMA_UNMAP","hasFd":0,"flags":0,"iova":4096,"size":"0x1000"}', eof(0)],
      3,
      /"iova" is 4096; expected a hex string of up to 64 bits/,
    ],
    [
      'a number of 65 bits',
      [...HEAD, unmap(0, 2n ** 64n), eof(0)],
      3,
      /"size" is "0x10000000000000000"; expected a hex string/,
    ],
    [
      'a negative count',
      [...HEAD, unmap(0, 1, { rangeDeleted: -1 }), eof(0)],
      3,
      /"rangeDeleted" is -1; exp/,
    ],
    ['no map and no unmap', [...HEAD, eof(0)], 3, /no DMA_MAP and no DMA_UNMAP/],
    ['an unknown command', [...HEAD, '{"cmd":"DMA_UNMPA"}', eof(0)], 3, /"cmd" is "DMA_UNMPA"; expected/],
    [
      'an unknown field',
      [...HEAD, unmap(0, 1, { rangeDelted: 1 }), eof(0)],
      3,
      /unknown field "rangeDelted"; accepted: t_us, cmd/,
    ],
    [
      'maps of too many pages',
      [
        ...HEAD,
        ...Array.from({ length: 2 ** 17 / 2 ** 10 }, (_, i) => map(i * 2 ** 31, 2 ** 31, 0)),
        map(0, 4096, 0),
        eof(0),
      ],
      131,
      /more than 67108864 pages in the maps so far/,
    ],
    ['two fds', [...HEAD, map(0, 4096, 0).replace('"hasFd":1', '"hasFd":2'), eof(0)], 3, /2 fds; expected 0/],
  ];
  for (const [what, lines, line, expected] of bad)
    it(`refuses ${what}, and names file, line and expected content`, async () => {
      const file = folder.lines(...lines);
      const error = await errorOf(file);
      expect(error.message)
        .to.match(expected)
        .and.satisfy((text: string) => text.startsWith(`${file}:${line}: `));
      expect(error.message).to.not.include('\n');
      expect(error.line).to.equal(line);
    });

  it('refuses a missing file, an empty file, a folder, and a file without gzip data', async () => {
    const missing = folder.path('none.jsonl');
    expect((await errorOf(missing)).message).to.equal(
      `${missing}: no such file; expected a .jsonl or .jsonl.gz`,
    );
    expect((await errorOf(folder.path('none.jsonl.gz'))).message).to.match(/no such file/);
    expect((await errorOf(folder.path('.'))).message).to.match(/not a regular file/);
    expect((await errorOf(folder.write(''))).message).to.match(
      /:1: the file is empty; expected a capture header/,
    );
    expect((await errorOf(folder.write('no gzip', 'gz'))).message).to.match(/:1: broken gzip data; expected/);
  });

  it('distinguishes a cut inside a line from a cut between lines', async () => {
    const whole = [...HEAD, map(0, PAGE_SIZE, 0), eof(1)].map((line) => `${line}\n`).join('');
    for (let length = 1; length < whole.length - 1; length++) {
      const error = await errorOf(folder.write(whole.slice(0, length)));
      const lines = whole.slice(0, length).split('\n');
      const rest = lines.at(-1) as string;
      const cutInside = rest !== '' && !isJson(rest);
      expect(error.message).to.match(
        cutInside ? /cut inside the line, after \d+ char/ : /expected an eof line/,
      );
      expect(error.line).to.equal(rest === '' ? lines.length - 1 : lines.length);
    }
    for await (const _event of readCapture(folder.write(whole.trimEnd())));
  });

  it('detects cut or damaged gzip data', async () => {
    const packed = gzipSync(
      [...HEAD, ...Array.from({ length: 4000 }, (_, i) => unmap(i * 4096, 4096)), eof(0)].join('\n'),
    );
    const cut = await errorOf(folder.write(packed.subarray(0, packed.length / 2), 'jsonl.gz'));
    expect(cut.message).to.match(/:\d+: the gzip data end early; expected a whole \.jsonl\.gz/);
    const damaged = Uint8Array.from(packed);
    damaged.fill(0xff, packed.length / 2, packed.length / 2 + 64);
    const error = await errorOf(folder.write(damaged, 'jsonl.gz'));
    expect(error.message).to.match(/broken gzip data|not JSON|hex string|end early/);
  });

  it('accepts a line of the maximum length, and refuses one byte more', async () => {
    const padded = (bytes: number) => header.replace('a test', 'x'.repeat(bytes - header.length + 6));
    for await (const _event of readCapture(
      folder.lines(padded(LINE_BYTES_LIMIT), unmap(0, 1, { miss: true }), eof(0)),
    ));
    const error = await errorOf(folder.lines(header, padded(LINE_BYTES_LIMIT + 1), eof(0)));
    expect(error.message).to.match(/:2: line of more than 65536 bytes/);
    const endless = await errorOf(folder.write('{'.repeat(20 * LINE_BYTES_LIMIT)));
    expect(endless.message).to.match(/:1: line of more than 65536 bytes/);
  });
});

describe('clampRange', () => {
  it('cuts a range at the table end, and returns none for a range beyond it', () => {
    expect(clampRange(0x1000n, 0x2000n)).to.deep.equal({ iova: 0x1000, size: 0x2000 });
    expect(clampRange(0xfef00000n, 0xffffffff01100000n)).to.deep.equal({
      iova: 0xfef00000,
      size: TABLE_IOVA_LIMIT - 0xfef00000,
    });
    expect(clampRange(0n, 2n ** 64n - 1n)).to.deep.equal({ iova: 0, size: TABLE_IOVA_LIMIT });
    expect(clampRange(2n ** 48n - 4096n, 4096n)).to.deep.equal({ iova: 2 ** 48 - 4096, size: 4096 });
    expect(clampRange(2n ** 48n, 4096n)).to.equal(undefined);
    expect(clampRange(2n ** 64n - 4096n, 4096n)).to.equal(undefined);
    expect(() => clampRange(2n ** 64n - 4096n, 8192n)).to.throw(VfioError, 'EOVERFLOW');
  });
});

describe('replayCapture on constructed streams', () => {
  const replay = (...lines: string[]): Promise<ReplayResult> =>
    replayCapture(folder.lines(...HEAD, ...lines));
  const ROM = map(0xfffc0000, 0x40000);
  const LOW = map(0, 0xc3000, 0);
  const HIGH = map(0x100000, MEMFD - 0x100000, 0x100000);
  const OPEN = map(0xe8000, 0x8000, 0xe8000);
  const PTE = map(0x4000_0000, PAGE_SIZE, 0x5000);
  /** A translation with equal IOVA and GPA. */
  const EQUAL = map(0x7000, PAGE_SIZE, 0x7000);

  it('accepts a complete switch and the switch back', async () => {
    // biome-ignore format: one row for each phase
    const result = await replay(
      LOW, OPEN, HIGH, ROM,
      unmap(0, 0xc3000), unmap(0xe8000, 0x8000), unmap(0x100000, MEMFD - 0x100000), unmap(0xfffc0000, 0x40000),
      unmap(0, 0xfee00000, { rangeDeleted: 0, miss: true }),
      PTE, EQUAL, map(0x20_0000, PAGE_2M, 0x40_0000),
      unmapAll(),
      OPEN, LOW, HIGH, ROM,
      eof(4),
    );
    expect(result.problems).to.deep.equal([]);
    expect(result).to.include({ holds: true, maps: 11, unmaps: 6, removed: 7, liveMaps: 4, refused: 0 });
  });

  const breaking: readonly [what: string, lines: string[], broken: number][] = [
    ['a translation beside the RAM sections', [LOW, HIGH, ROM, PTE, eof(4)], 1],
    ['a translation beside the whole RAM as one section', [map(0, MEMFD, 0), PTE, eof(2)], 1],
    ['a translation beside a remaining ROM', [ROM, PTE, eof(2)], 1],
    ['a RAM section beside a translation', [PTE, HIGH, eof(2)], 1],
    ['the whole RAM beside a translation', [PTE, map(0, MEMFD, 0), eof(2)], 1],
    ['a ROM beside translations', [PTE, EQUAL, ROM, eof(3)], 1],
    ['a translation while one open section remains', [LOW, OPEN, unmap(0, 0xc3000), PTE, eof(2)], 1],
    [
      'a translation beside open sections identified by a ROM',
      [OPEN, ROM, unmap(0xfffc0000, 0x40000), PTE, eof(2)],
      1,
    ],
    [
      'a RAM section beside a translation with equal addresses',
      [PTE, EQUAL, unmap(0x4000_0000, 4096), HIGH, eof(2)],
      1,
    ],
    ['two translations beside a RAM section', [LOW, PTE, map(0x5000_0000, 4096, 0x9000), eof(3)], 2],
    ['a refused translation that overlaps', [HIGH, map(0x200000, 4096, 0x9000), eof(1)], 1],
  ];
  for (const [what, lines, broken] of breaking)
    it(`detects a violation of R2: ${what}`, async () => {
      const result = await replay(...lines);
      expect(result).to.include({
        holds: false,
        exclusiveBroken: broken,
        countsDiffering: 0,
        lookupsWrong: 0,
      });
      expect(result.problems.join('\n')).to.match(/:\d+: R2 broken: (GPA|IOVA) map 0x.* maps are live/);
    });

  const holding: readonly [what: string, lines: string[]][] = [
    ['an equal address among translations', [PTE, EQUAL, unmap(0x4000_0000, 4096), PTE, eof(2)]],
    ['an equal address before the first other translation', [EQUAL, PTE, eof(2)]],
    ['a RAM section that first resembles a translation', [OPEN, ROM, HIGH, LOW, eof(4)]],
    ['only equal addresses', [EQUAL, OPEN, eof(2)]],
    ['a switch through an empty container', [LOW, ROM, unmapAll(), PTE, unmapAll(), EQUAL, PTE, eof(2)]],
  ];
  for (const [what, lines] of holding)
    it(`accepts that R2 holds: ${what}`, async () => {
      const result = await replay(...lines);
      expect(result.problems).to.deep.equal([]);
      expect(result.holds).to.equal(true);
    });

  const differing: readonly [what: string, lines: string[], expected: RegExp][] = [
    ['an unmap without a mapping', [unmap(0, 4096), eof(0)], /:3: unmap removed 0 maps, recorded 1/],
    [
      'a recorded miss that removes a mapping',
      [PTE, unmap(0x4000_0000, 4096, { miss: true }), eof(0)],
      /:4: unmap removed 1 .* 0$/,
    ],
    [
      'more maps than recorded',
      [PTE, EQUAL, unmap(0, 2 ** 40, { rangeDeleted: 1 }), eof(0)],
      /2 maps, recorded 1/,
    ],
    ['a straddling mapping that stays', [OPEN, unmap(0xe8000, 4096), eof(1)], /removed 0 maps, recorded 1/],
    [
      'an unmap of all with a recorded count of 0',
      [PTE, unmapAll({ rangeDeleted: 0 }), eof(0)],
      /removed 1 maps, recorded 0/,
    ],
    ['a different count at the end', [PTE, eof(2)], /:4: 1 maps live at the end, recorded 2/],
  ];
  for (const [what, lines, expected] of differing)
    it(`counts ${what}`, async () => {
      const result = await replay(...lines);
      expect(result).to.include({
        holds: false,
        countsDiffering: 1,
        exclusiveBroken: 0,
        stale: 0,
        refused: 0,
      });
      expect(result.problems).to.have.length(1);
      expect(result.problems[0]).to.match(expected);
    });

  const refused: readonly [what: string, line: string, expected: RegExp][] = [
    ['an overlap', map(0xe9000, 4096, 0xe9000), /DMA_MAP refused: EEXIST/],
    ['an offset beyond the memfd', map(0x10_0000_0000, 4096, MEMFD), /DMA_MAP refused: EFAULT/],
    ['an offset beyond any memfd', map(0x10_0000_0000, 4096, 2 ** 44), /DMA_MAP refused: EFAULT/],
    ['a huge ROM', map(0x10_0000_0000, 2 ** 30), /DMA_MAP refused: EFAULT/],
    ['a misaligned address', map(0x10_0000_0001, 4096, 0x10_0000_0001), /DMA_MAP refused: EINVAL/],
    ['no permission', map(0x10_0000_0000, 4096, 0x10_0000_0000, 0), /DMA_MAP refused: EINVAL/],
    ['a 49-bit IOVA', map(2 ** 48, 4096), /DMA_MAP refused: EINVAL/],
    ['an unmap of size 0', unmap(0, 0), /DMA_UNMAP refused: EINVAL/],
    ['an unmap that wraps', unmap(2n ** 64n - 4096n, 8192), /DMA_UNMAP refused: EOVERFLOW/],
    ['an unmap of all with a range', unmap(0, 4096, { flags: 2 }), /DMA_UNMAP refused: EINVAL/],
  ];
  for (const [what, line, expected] of refused)
    it(`counts a refusal with its line: ${what}`, async () => {
      const result = await replay(OPEN, ROM, line, eof(2));
      expect(result).to.include({
        holds: false,
        refused: 1,
        countsDiffering: 0,
        lookupsWrong: 0,
        liveMaps: 2,
      });
      expect(
        result.problems.filter((problem) => expected.test(problem) && problem.includes(':5: ')),
      ).to.have.length(1);
    });

  it('describes a bounded number of problems', async () => {
    const misses = Array.from({ length: PROBLEMS_KEPT + 5 }, () => unmap(0, 4096));
    const result = await replay(...misses, eof(0));
    expect(result.countsDiffering).to.equal(PROBLEMS_KEPT + 5);
    expect(result.problems).to.have.length(PROBLEMS_KEPT);
  });
});
