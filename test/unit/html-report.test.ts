import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import type { StripSegment, StripSwitch } from '../../src/metrics/address-space-strip.ts';
import { pageModel } from '../../src/report/html/build-model.ts';
import { decodeCell, encodeCells } from '../../src/report/html/cells.ts';
import { html } from '../../src/report/html/html.ts';
import { recordHtml } from '../../src/report/html/page.ts';
import type { RunRecord, VgpuTimeline } from '../../src/report/record.ts';
import { recordFixture } from '../fixtures/record.ts';

const MIB = 2 ** 20;

/** Returns the text of a page's element. */
const between = (page: string, start: string, end: string): string =>
  page.slice(page.indexOf(start) + start.length, page.indexOf(end, page.indexOf(start)));

const segment = (i: number): StripSegment => ({
  startUs: i * 1_234_567,
  us: 1_234_567,
  gpaUs: i % 2 === 0 ? 1_234_567 : 300_000,
  gpaBytes: 2 ** 27 - i * 4096,
  iovaUs: i % 2 === 0 ? 0 : 934_567,
  iovaBytes: i % 2 === 0 ? 0 : 40_960 + i * 4096,
  switches: i % 5,
});

const change = (i: number): StripSwitch => ({
  from: 'system',
  to: 'iommu',
  startUs: i * 1_234_567,
  removedUs: 12_345,
  tookUs: 23_456,
  bytesBefore: 2 ** 27,
  bytesAfter: 40_960,
});

/** Returns the longest timeline that a run of many vGPUs has. */
const fullTimeline = (vm: number, vgpu: number): VgpuTimeline => ({
  name: `vm${vm}/gpu${vgpu}`,
  vm,
  vgpu,
  addressSpace: {
    segments: Array.from({ length: 32 }, (_, i) => segment(i)),
    switches: Array.from({ length: 32 }, (_, i) => change(i)),
  },
  activity: {
    seconds: 1,
    commands: Array.from({ length: 64 }, (_, i) => (i * 37) % 4000),
    avgUs: Array.from({ length: 64 }, (_, i) => (i * 7919) % 100_000),
    maxUs: Array.from({ length: 64 }, (_, i) => (i * 104_729) % 1_000_000),
    engine: Array.from({ length: 64 }, (_, i) => ((i * 31) % 1000) / 1000),
  },
});

const results = (vms: number, vgpus: number): RunRecord['results'] =>
  Array.from({ length: vms }, (_, vm) => ({
    vm,
    operations: 1,
    bytesVerified: 1,
    mismatches: 0,
    checksFailed: 0,
    faultsExpected: 0,
    faultsUnexpected: 0,
    violations: 0,
    scriptError: '',
    interrupted: false,
    latencies: [],
    vgpus: Array.from({ length: vgpus }, (_, vgpu) => ({
      name: `vm${vm}/gpu${vgpu}`,
      model: 'vgpu',
      type: 'vgpu-1g',
      gpu: Math.floor((vm * vgpus + vgpu) / 16),
      share: 1 / 16,
      used: 0.0123,
      operations: 1,
      busyUs: 1000 + vgpu,
      waitedUs: 1,
      preemptions: 0,
      latencies: [],
      counters: null,
      failure: '',
    })),
  }));

describe('HTML report', () => {
  it('has the verdict, each threshold with its observed value, and the command that repeats the run', () => {
    const record = recordFixture();
    const page = recordHtml(record);
    expect(between(page, 'id="verdict">', '<')).to.equal(record.verdict.toUpperCase());
    expect(page.match(/class="threshold"/g)).to.have.length(record.load.thresholds.length);
    const first = page.indexOf('<h2>Thresholds');
    for (const { metric, text } of record.load.thresholds) {
      const at = page.indexOf(html`${metric}`.text, first);
      expect(at, metric).to.be.greaterThan(first);
      expect(page.indexOf(html`${text}`.text, at), text).to.be.greaterThan(at);
    }
    expect(between(page, 'id="repeat">', '</section>'))
      .to.include(record.command)
      .and.to.include(`seed ${record.seed}`);
  });

  it('names the violations with their evidence', () => {
    const evidence = [{ vm: 3, kind: 'leaked-pins', detail: 'vm3/gpu1 stopped and left 2 pins', repeats: 4 }];
    const page = recordHtml(recordFixture({ evidence, violations: 5 }));
    expect(page).to.include('leaked-pins').and.to.include('left 2 pins (and 4 more of this kind)');
    expect(recordHtml(recordFixture())).to.include('No contract was broken.');
  });

  it('refers to nothing outside itself, and runs its own script alone', () => {
    const page = recordHtml(recordFixture());
    expect(page).not.to.match(/https?:\/\//);
    expect(page).not.to.match(/<(?:script|img|iframe)[^>]*\bsrc=/);
    expect([...page.matchAll(/<link[^>]*>/g)].map(([link]) => link)).to.deep.equal([
      '<link rel="icon" href="data:,">',
    ]);
    expect(page).to.match(/script-src &#39;sha256-[A-Za-z0-9+/]{43}=&#39;/);
  });

  it('escapes every text of the run', () => {
    const evil = `</script><script>alert(1)</script><img src=x onerror=alert(2)>"'&<!--`;
    const base = recordFixture();
    const evils = {
      scenario: evil,
      question: evil,
      command: evil,
      program: evil,
      inject: evil,
      problems: [evil],
      notes: [evil],
      events: [{ seconds: 1, kind: evil, vm: 1, text: evil }],
      evidence: [{ vm: 0, kind: evil, detail: evil, repeats: 0 }],
      stages: base.stages.map((stage) => ({ ...stage, name: evil, group: evil, workloads: { [evil]: 1 } })),
      load: {
        ...base.load,
        abortedBy: evil,
        thresholds: base.load.thresholds.map((each) => ({
          ...each,
          metric: evil,
          condition: evil,
          text: evil,
        })),
        metrics: base.load.metrics.map((each) => ({ ...each, tags: { stage: evil } })),
      },
      results: results(1, 1).map((vm) => ({
        ...vm,
        vgpus: vm.vgpus.map((vgpu) => ({ ...vgpu, name: evil, type: evil })),
      })),
      timelines: [{ ...fullTimeline(0, 0), name: evil }],
    };
    const page = recordHtml(recordFixture(evils));
    const own = recordHtml(base);
    for (const tag of ['<script', '</script', '<img', '<!--'])
      expect(page.split(tag).length, tag).to.equal(own.split(tag).length);
    expect(JSON.parse(between(page, 'id="model">', '</script>')).vgpus).to.deep.equal([evil]);
  });

  it('stays below 1 MiB for 1,024 vGPUs whose timelines, metrics and lists are full', () => {
    const base = recordFixture();
    const [trend] = base.load.metrics.filter(({ type }) => type === 'trend');
    const [counter] = base.load.metrics.filter(({ type }) => type === 'counter');
    if (!trend || !counter) throw new Error('the fixture has no such metrics');
    const many = (count: number | undefined) =>
      Array.from({ length: 120 }, (_, i) => (i * 1234.567) % (count ?? 1e6));
    const series = {
      seconds: 1,
      count: many(1e5),
      avg: many(1e6),
      med: many(1e6),
      p95: many(1e6),
      p99: many(1e6),
      max: many(1e6),
    };
    const histogram = {
      from: Array.from({ length: 20 * 128 }, (_, i) => 2 ** Math.floor(i / 128) * (1 + (i % 128) / 128)),
      counts: Array.from({ length: 20 * 128 }, (_, i) => i * 17),
    };
    const metrics = Array.from({ length: 2048 }, (_, i) => ({
      ...(i % 2 === 0 ? { ...trend, histogram } : counter),
      tags: i < 2 ? {} : { stage: `a-stage-with-a-name-${i}` },
      series,
    }));
    const text = 'a text of a script or a model. '.repeat(30);
    const vms = results(64, 16);
    const record = recordFixture({
      vms: 64,
      vgpus: 16,
      results: vms,
      timelines: vms.flatMap(({ vm, vgpus }) => vgpus.map((_, vgpu) => fullTimeline(vm, vgpu))),
      load: { ...base.load, seconds: 64, metrics },
      notes: Array.from({ length: 5000 }, () => text),
      problems: Array.from({ length: 5000 }, () => text),
      evidence: Array.from({ length: 5000 }, () => ({ vm: 1, kind: 'kind', detail: text, repeats: 1 })),
      events: Array.from({ length: 8192 }, (_, i) => ({ seconds: i / 10, kind: 'boot', vm: i, text: '' })),
    });
    const model = pageModel(record);
    expect(model.vgpus).to.have.length(1024);
    expect(
      model.strips.every(({ segments, switches }) => segments.length >= 6 * 6 && switches.length >= 2),
    ).to.equal(true);
    expect(Buffer.byteLength(recordHtml(record))).to.be.below(MIB);
  });

  it('shades the phases of a script, which has no stages, as the first VM went through them', () => {
    const phase = (seconds: number, vm: number, text: string) => ({ seconds, kind: 'phase', vm, text });
    const events = [
      phase(0.5, 1, 'identity'),
      phase(1, 2, 'identity'),
      phase(2, 1, 'churn'),
      { seconds: 2.5, kind: 'end', vm: 2, text: '' },
      { seconds: 3, kind: 'end', vm: 1, text: '' },
    ];
    const model = pageModel(recordFixture({ stages: [], events }));
    expect(model.stages).to.deep.equal([
      { name: 'identity', from: 0.5, to: 2, measured: true },
      { name: 'churn', from: 2, to: 3, measured: true },
    ]);
    expect(model.from, 'the first phase').to.equal(0.5);
    expect(model.events.map(({ text }) => text)).to.deep.equal(['end vm2', 'end vm1']);
    expect(pageModel(recordFixture({ events })).stages.map(({ name }) => name)).to.deep.equal([
      'web',
      'batch',
    ]);
  });

  it('draws a strip whose spans have the length, the kinds and the switches of the recorded ones', () => {
    const timelines = [fullTimeline(0, 0)];
    const [strip] = pageModel(recordFixture({ timelines, results: results(1, 1) })).strips;
    const numbers = strip?.segments ?? [];
    const every = (field: number) => numbers.filter((_, i) => i % 6 === field);
    const recorded = timelines[0]?.addressSpace.segments ?? [];
    expect(every(0)).to.deep.equal(recorded.map(({ us }) => us));
    expect(every(1).slice(0, 2)).to.deep.equal([100, 24]);
    expect(every(2).slice(0, 2)).to.deep.equal([0, 76]);
    expect(every(3)[0]).to.equal(2 ** 17);
    expect(strip?.switchCount).to.equal(recorded.reduce((sum, { switches }) => sum + switches, 0));
  });
});

describe('cells of the heat map', () => {
  it('keep each value within a level of the logarithmic scale, and tell none from the least', () => {
    fc.assert(
      fc.property(
        fc.double({ min: 0.1, max: 1e3, noNaN: true }),
        fc.double({ min: 1.01, max: 1e6, noNaN: true }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (min, ratio, part) => {
          const value = min * ratio ** part;
          const [cell, none] = encodeCells([value, null], min, min * ratio);
          expect(decodeCell(cell)).to.be.closeTo(part, 0.5 / 61 + 1e-9);
          expect(decodeCell(none)).to.equal(undefined);
        },
      ),
    );
  });

  it('have a level if all values are equal', () => {
    expect(encodeCells([5, null, 5], 5, 5)).to.equal('0.0');
  });
});
