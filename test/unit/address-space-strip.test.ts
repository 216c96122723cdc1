import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { nowUs, sleep } from '#host';
import { StripRecorder, stripsMessage } from '../../src/coordinator/vm/strip-recorder.ts';
import {
  AddressSpaceStrip,
  type StripSegment,
  SWITCHES_KEPT,
  thinned,
} from '../../src/metrics/address-space-strip.ts';
import { decodeFrame, encodeFrame } from '../../src/proto/codec.ts';

/** A span of one kind. */
const span = (startUs: number, us: number, kind: 'gpa' | 'iova' | 'none', bytes = 4096): StripSegment => ({
  startUs,
  us,
  gpaUs: kind === 'gpa' ? us : 0,
  gpaBytes: kind === 'gpa' ? bytes : 0,
  iovaUs: kind === 'iova' ? us : 0,
  iovaBytes: kind === 'iova' ? bytes : 0,
  switches: 0,
});

const sum = (segments: readonly StripSegment[], pick: (segment: StripSegment) => number): number =>
  segments.reduce((total, segment) => total + pick(segment), 0);

describe('address-space strip', () => {
  it('keeps the spans of a run with few switches as they are', () => {
    const strip = new AddressSpaceStrip(16);
    const spans = [
      span(0, 100, 'gpa'),
      span(100, 1, 'none'),
      span(101, 50, 'iova', 8192),
      span(151, 9, 'gpa'),
    ];
    for (const each of spans) strip.addSegment(each);
    expect(strip.data.segments).to.deep.equal(spans);
  });

  it('joins neighbours without a change', () => {
    const strip = new AddressSpaceStrip(16);
    strip.addSegment(span(0, 100, 'gpa'));
    strip.addSegment(span(101, 900, 'gpa'));
    strip.addSegment(span(1001, 100, 'gpa', 8192));
    expect(strip.data.segments).to.deep.equal([span(0, 1001, 'gpa'), span(1001, 100, 'gpa', 8192)]);
  });

  it('never exceeds its limit, and loses neither time nor bytes nor switches', () => {
    const step = fc.record({
      us: fc.integer({ min: 1, max: 1_000_000 }),
      kind: fc.constantFrom('gpa' as const, 'iova' as const, 'none' as const),
      bytes: fc.integer({ min: 0, max: 2 ** 30 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), fc.integer({ min: 2, max: 20 }), (steps, limit) => {
        const strip = new AddressSpaceStrip(limit);
        const added: StripSegment[] = [];
        let now = 0;
        for (const { us, kind, bytes } of steps) {
          added.push({ ...span(now, us, kind, bytes), switches: 1 });
          strip.addSegment(added.at(-1) as StripSegment);
          now += us;
        }
        const { segments } = strip.data;
        expect(segments.length).to.be.at.most(limit);
        expect(sum(segments, ({ us }) => us)).to.equal(now);
        for (const [i, { startUs, us }] of segments.entries())
          expect(startUs + us).to.equal(segments[i + 1]?.startUs ?? now);
        for (const pick of [
          (s: StripSegment) => s.switches,
          (s: StripSegment) => s.gpaUs,
          (s: StripSegment) => s.iovaUs,
        ])
          expect(sum(segments, pick)).to.equal(sum(added, pick));
        const byteTime = (s: StripSegment) => s.gpaUs * s.gpaBytes + s.iovaUs * s.iovaBytes;
        expect(sum(segments, byteTime)).to.be.closeTo(sum(added, byteTime), 1e-9 * sum(added, byteTime));
      }),
    );
  });

  it('merges the shortest spans first', () => {
    const strip = new AddressSpaceStrip(3);
    for (const each of [
      span(0, 1000, 'gpa'),
      span(1000, 2, 'none'),
      span(1002, 3, 'iova'),
      span(1005, 900, 'gpa'),
    ])
      strip.addSegment(each);
    expect(strip.data.segments.map(({ us }) => us)).to.deep.equal([1000, 5, 900]);
    expect(thinned(strip.data, 2).segments.map(({ us }) => us)).to.deep.equal([1000, 905]);
  });

  it('keeps the first and the last switches', () => {
    const strip = new AddressSpaceStrip(4);
    const facts = { from: 'system', to: 'iommu', removedUs: 1, tookUs: 2, bytesBefore: 0, bytesAfter: 0 };
    for (let i = 0; i < 100; i++) strip.addSwitch({ ...facts, startUs: i });
    const starts = strip.data.switches.map(({ startUs }) => startUs);
    expect(starts).to.have.length(2 * SWITCHES_KEPT);
    expect([starts[0], starts[SWITCHES_KEPT - 1], starts[SWITCHES_KEPT], starts.at(-1)]).to.deep.equal([
      0,
      SWITCHES_KEPT - 1,
      100 - SWITCHES_KEPT,
      99,
    ]);
    expect(strip.take().switches).to.have.length(2 * SWITCHES_KEPT);
    expect(strip.data, 'empty after it was taken').to.deep.equal({ segments: [], switches: [] });
  });
});

describe('recorder of the address-space strip', () => {
  it('records GPA going and IOVA coming, and what was mapped before and after', async () => {
    const container = { mappedBytes: 0 };
    const seen: string[] = [];
    const recorder = new StripRecorder(container, 2 ** 31, ({ from, to }) => seen.push(`${from}→${to}`));
    const change = (from: 'system' | 'blocked', to: 'iommu' | 'system', startUs: number, bytes: number) => {
      recorder.begins();
      container.mappedBytes = bytes;
      recorder.switched({ from, to, startUs, removedUs: 40, tookUs: 100 });
    };
    const { startUs: first } = recorder.take().segments[0] as StripSegment;
    change('blocked', 'system', first + 1000, 2 ** 31 + 2 ** 20);
    change('system', 'iommu', first + 3000, 8192);
    const { segments, switches } = recorder.take();
    expect(seen).to.deep.equal(['blocked→system', 'system→iommu']);
    expect(switches.map(({ bytesBefore, bytesAfter }) => [bytesBefore, bytesAfter])).to.deep.equal([
      [0, 2 ** 20],
      [2 ** 20, 8192],
    ]);
    const going = segments.find(({ startUs, gpaUs }) => startUs === first + 3000 && gpaUs > 0);
    const coming = segments.find(({ startUs, iovaUs }) => startUs === first + 3040 && iovaUs > 0);
    expect(going).to.include({ us: 40, gpaBytes: 2 ** 19, switches: 0 });
    expect(coming).to.include({ us: 60, iovaBytes: 4096, switches: 1 });
    await sleep(2);
    container.mappedBytes = 16_384;
    const rest = recorder.take();
    expect(rest.switches).to.deep.equal([]);
    expect(rest.segments.at(-1)).to.include({ iovaBytes: (8192 + 16_384) / 2, gpaUs: 0, switches: 0 });
  });

  it('sends its strip as a frame whose spans meet', async () => {
    const container = { mappedBytes: 4096 };
    const strip = new StripRecorder(container);
    strip.switched({ from: 'blocked', to: 'system', startUs: nowUs(), removedUs: 0.4, tookUs: 0.7 });
    for (let i = 0; i < 3; i++) {
      await sleep(1);
      container.mappedBytes += 4096;
      strip.begins();
    }
    const bytes = encodeFrame({ timeUs: 1, process: 0, vm: 3, device: -1 }, 'vmAddressSpaces', {
      ...stripsMessage([{ index: 2, strip }]),
    });
    const frame = decodeFrame(bytes);
    if (frame.kind !== 'vmAddressSpaces') throw new Error(frame.kind);
    const [device] = frame.body.devices;
    expect(device?.device).to.equal(2);
    const segments = device?.segments ?? [];
    expect(segments.length).to.be.at.least(3);
    for (const [i, next] of segments.slice(1).entries())
      expect((segments[i]?.startUs ?? 0) + (segments[i]?.us ?? 0)).to.equal(next.startUs);
  });
});
