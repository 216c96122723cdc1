import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { mergeByTime } from '../../src/cli/trace.ts';
import { encodeFrame, FRAME_BYTES_LIMIT, FrameError } from '../../src/proto/codec.ts';
import { readTrace, TraceWriter } from '../../src/proto/trace.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const phase = (timeUs: number, name: string): Uint8Array =>
  encodeFrame({ timeUs, process: 0, vm: 1, device: -1 }, 'guestPhase', { name });

describe('trace file', () => {
  const file = temporaryFolder();

  function write(name: string, frames: readonly Uint8Array[], limit?: number): TraceWriter {
    const writer = new TraceWriter(file(name), limit);
    for (const frame of frames) writer.append(frame);
    writer.close();
    return writer;
  }

  it('returns every frame, also frames larger than its buffer', () => {
    const names = Array.from({ length: 5000 }, (_, i) => `phase ${i}`);
    names.push('x'.repeat(600_000), 'last');
    write(
      'all',
      names.map((name, i) => phase(i, name)),
    );
    const read = [...readTrace(file('all'))].map(({ kind, body }) => kind === 'guestPhase' && body.name);
    expect(read).to.deep.equal(names);
  });

  it('stops at its size limit, and counts omitted frames', () => {
    const frames = Array.from({ length: 100 }, () => phase(1, 'p'));
    const size = (frames[0] as Uint8Array).length + 1;
    const writer = write('limited', frames, 10 * size);
    expect([writer.frames, writer.dropped]).to.deep.equal([10, 90]);
    expect([...readTrace(file('limited'))]).to.have.length(10);
  });

  it('names the offset of a cut or broken frame', () => {
    write('cut', [phase(1, 'one'), phase(2, 'two')]);
    const bytes = readFileSync(file('cut'));
    writeFileSync(file('cut'), bytes.subarray(0, bytes.length - 2));
    const second = phase(1, 'one').length + 1;
    expect(() => [...readTrace(file('cut'))]).to.throw(
      FrameError,
      new RegExp(`trace ends inside a frame: \\d+ bytes left at offset ${second}`),
    );
    writeFileSync(file('huge'), Buffer.from([0xff, 0xff, 0xff, 0xff, 0x7f]));
    expect(() => [...readTrace(file('huge'))]).to.throw(
      FrameError,
      new RegExp(`accepted: up to ${FRAME_BYTES_LIMIT}`),
    );
    writeFileSync(file('broken'), Buffer.from([3, 0xff, 0xff, 0xff]));
    expect(() => [...readTrace(file('broken'))]).to.throw(FrameError, /^at offset 0: /);
  });

  it('ends at a full disk with whole frames, and counts those that are missing', () => {
    const writer = new TraceWriter('/dev/full');
    for (let i = 0; i < 10; i++) writer.append(phase(i, 'p'));
    writer.close();
    writer.append(phase(11, 'after the end'));
    expect(writer.error).to.match(/^ENOSPC/);
    expect([writer.frames, writer.dropped]).to.deep.equal([0, 11]);
  });

  it('keeps the frames that a file has taken before its disk was full', () => {
    // The kernel takes a part of the last write, and refuses the next one.
    const shell = 'trap \'\' XFSZ; ulimit -f 150; exec "$@"';
    const writer = fileURLToPath(new URL('../fixtures/fill-trace.ts', import.meta.url));
    const node = [process.execPath, '--conditions=source', '--no-warnings', writer, file('full'), '9000'];
    const printed = execFileSync('sh', ['-c', shell, 'sh', ...node], { encoding: 'utf8' });
    const { frames, dropped, error } = JSON.parse(printed) as Pick<
      TraceWriter,
      'frames' | 'dropped' | 'error'
    >;
    expect(error).to.match(/^EFBIG/);
    expect(frames).to.be.above(1000);
    expect(frames + dropped).to.equal(9000);
    expect([...readTrace(file('full'))], 'and no part of a frame').to.have.length(frames);
  });

  it('that cannot be created drops its frames', () => {
    const writer = new TraceWriter(file('nowhere/trace'));
    writer.append(phase(1, 'p'));
    writer.close();
    expect(writer.error).to.match(/^ENOENT/);
    expect([writer.frames, writer.dropped]).to.deep.equal([0, 1]);
  });

  it('is printed in time order, with several files merged', () => {
    write('a', [phase(10, 'a10'), phase(40, 'a40'), phase(30, 'a30')]);
    write('b', [phase(20, 'b20'), phase(50, 'b50')]);
    const merged = mergeByTime(['a', 'b'].map((name) => readTrace(file(name))));
    expect([...merged].map(({ header }) => header.timeUs)).to.deep.equal([10, 20, 30, 40, 50]);
  });
});
