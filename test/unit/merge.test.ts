/**
 * Merging blobs: what is refused with which text, and the record that results.
 */
import { writeFileSync } from 'node:fs';
import { gunzipSync, gzipSync } from 'node:zlib';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { BlobError } from '../../src/scenario/blob.ts';
import { mergeBlobs } from '../../src/scenario/merge.ts';
import { isInShard, parseShard } from '../../src/scenario/shard.ts';
import { blobFixture, PROGRAM } from '../fixtures/blob.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

describe('shards', () => {
  it('have each VM once', () => {
    const shards = ['1/3', '2/3', '3/3'].map(parseShard);
    for (let vm = 0; vm < 7; vm++)
      expect(shards.filter((shard) => isInShard(vm, shard))).to.deep.equal([shards[vm % 3]]);
    expect(isInShard(5, undefined)).to.equal(true);
  });

  it('are i/n, with i from 1 to n and a limit', () => {
    for (const text of ['', '1', '0/4', '5/4', '1/257', '01/4', '1/4/', '-1/4', '1.5/4', '1 /4', 'a/b'])
      expect(parseShard(text), text).to.equal(undefined);
    expect(parseShard('256/256')).to.deep.equal({ index: 256, count: 256 });
  });
});

describe('a merge', () => {
  const inFolder = temporaryFolder();
  const files: Record<string, Uint8Array> = {};
  const write = (name: string, bytes: Uint8Array): string => {
    files[name] = bytes;
    writeFileSync(inFolder(name), bytes);
    return inFolder(name);
  };
  const merge = (...paths: readonly string[]) => mergeBlobs(paths, PROGRAM);
  const two = () => [write('1.blob', blobFixture()), write('2.blob', blobFixture({ index: 2 }))] as const;

  it('adds up metrics and results, and judges the thresholds of the whole run', () => {
    const [first, second] = two();
    const record = merge(second, first);
    expect(record.load.thresholds.map(({ metric, ok, observed }) => [metric, ok, observed])).to.deep.equal([
      ['iterations', true, 30],
      ['command_latency', true, 500],
    ]);
    expect([record.verdict, record.exitCode, record.vms, record.processes]).to.deep.equal([
      'passed',
      0,
      2,
      2,
    ]);
    expect([record.operations, record.maps]).to.deep.equal([30, 14]);
    expect(record.results.map(({ vm, operations }) => [vm, operations])).to.deep.equal([
      [0, 10],
      [1, 20],
    ]);
    const metric = (name: string) =>
      record.load.metrics.find(({ name: each, tags }) => each === name && Object.keys(tags).length === 0);
    expect(metric('maps')?.values.count).to.equal(14);
    expect(metric('command_latency')?.values).to.include({ count: 100, min: 100, avg: 300, max: 500 });
    expect(metric('vgpu_rss')?.values).to.deep.equal({ value: 2000, min: 1000, max: 2000 });
    expect(metric('vms_running')?.series.value).to.deep.equal([2, 2, 2, 1, 0]);
    expect(record.events.map(({ seconds, vm }) => [seconds, vm])).to.deep.equal([
      [1, 1],
      [2, 0],
    ]);
    expect(
      record.timelines.map(({ vm }) => vm),
      'each from its own shard',
    ).to.deep.equal([0, 1]);
    expect([record.shard, record.seed, record.command]).to.deep.equal([
      null,
      7,
      'mdevsim run fixture.yaml --seed 7',
    ]);
  });

  it('has the exit code of the whole run', () => {
    const both = (options: Parameters<typeof blobFixture>[0]) =>
      merge(write('a', blobFixture(options)), write('b', blobFixture({ ...options, index: 2 }))).exitCode;
    expect(both({ settings: { thresholds: { iterations: ['count<30'] } } })).to.equal(99);
    expect(both({ result: { mismatches: 1 } })).to.equal(1);
    expect(both({ result: { scriptError: 'x' } })).to.equal(107);
    expect(both({ interrupted: true })).to.equal(105);
  });

  it('names shards that are missing or there twice', () => {
    const [first, second] = two();
    expect(() => merge(first)).to.throw(BlobError, 'no blob of shard 2/2; accepted: all 2');
    expect(() => merge(first, second, first)).to.throw(
      BlobError,
      `${first}: shard 1/2 as ${first}; accepted: each once`,
    );
    const ofFour = write('4', blobFixture({ index: 2, count: 4 }));
    expect(() => merge(ofFour)).to.throw('no blob of shards 1/4, 3/4, 4/4; accepted: all 4');
  });

  it('names shards of another run, with the first difference', () => {
    const [first] = two();
    const other = (options: Parameters<typeof blobFixture>[0]) =>
      write('x', blobFixture({ index: 2, ...options }));
    const cases: readonly (readonly [Parameters<typeof blobFixture>[0], string])[] = [
      [{ record: { seed: 8 } }, 'seed is 8, not 7'],
      [{ count: 3 }, 'count of shards is 3, not 2'],
      [{ script: 'abc' }, 'script is "abc", not ""'],
      [{ settings: { name: 'other' } }, 'settings.name is "other", not "fixture"'],
      [{ settings: { ramMiB: 128 } }, 'settings.ramMiB is 128, not 64'],
      [
        { settings: { thresholds: { iterations: ['count==30'] } } },
        'settings.thresholds.command_latency is missing, not ["p(99)<1ms"]',
      ],
    ];
    for (const [options, difference] of cases)
      expect(() => merge(first, other(options))).to.throw(
        BlobError,
        `${inFolder('x')}: of another run than ${first}: ${difference}`,
      );
    expect(() => merge(first, other({ record: { program: 'mdevsim 9.9.9' } }))).to.throw(
      `${inFolder('x')}: written by mdevsim 9.9.9; accepted: ${PROGRAM}`,
    );
  });

  it('names a damaged file, and what is wrong where', () => {
    const whole = blobFixture();
    const json = gunzipSync(whole).toString();
    const changed = (from: string | RegExp, to: string) => {
      const text = json.replace(from, to);
      expect(text).not.to.equal(json);
      return gzipSync(text);
    };
    const flipped = Uint8Array.from(whole);
    flipped[whole.length >> 1]! ^= 0x10;
    const cases: readonly (readonly [Uint8Array, RegExp])[] = [
      [new Uint8Array(), /x: damaged, or not a blob: unexpected end of file$/],
      [Buffer.from('{}'), /x: damaged, or not a blob: incorrect header check$/],
      [whole.subarray(0, whole.length - 20), /x: damaged, or not a blob: unexpected end of file$/],
      [flipped, /x: damaged, or not a blob: /],
      [gzipSync('{"format":'), /x: damaged, or not a blob: .*JSON/],
      [gzipSync('[]'), /x: not a blob; accepted: files of --out blob=PATH$/],
      [gzipSync('null'), /x: not a blob; accepted/],
      [changed('"version":1', '"version":2'), /x: blob of version 2; accepted: 1$/],
      [changed('"seed":7', '"seed":-7'), /x: run\.seed: /],
      [changed('"index":1', '"index":3'), /x: run\.shard: .*an index up to the count$/],
      [
        changed(/"counts":\[50\]/, '"counts":[]'),
        /x: part\.store\.metrics\.\d\..*: .*as many buckets as counts$/,
      ],
      [changed(/"results":\["/, '"results":["!AAA'), /x: results\.0: /],
    ];
    for (const [bytes, why] of cases)
      expect(() => merge(write('x', bytes)), String(why)).to.throw(BlobError, why);
  });

  it('names a file that is missing or none', () => {
    expect(() => merge(inFolder('missing'))).to.throw(/ENOENT.*missing/);
    expect(() => merge(inFolder('.'))).to.throw(/not a regular file|EISDIR/);
  });
});
