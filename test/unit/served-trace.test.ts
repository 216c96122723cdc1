/**
 * The trace of a served device: switches of its address space, faults, and its report, as frames of a run's trace.
 */
import { join } from 'node:path';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { readTrace } from '../../src/proto/trace.ts';
import { eduDma, enable, Served } from '../fixtures/served-devices.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const PAGE = 4096;
const BYTES = 16 * PAGE;
/** A range of three pages has the form of no translation. */
const RAM_BYTES = 3 * PAGE;

describe('the trace of a served device', () => {
  const folder = temporaryFolder();

  it('has its switches, faults and report', async () => {
    const trace = join(folder(), 'trace');
    const served = await Served.start('edu', 2, undefined, undefined, { trace });
    const client = served.client(1);
    enable(client);
    const memory = served.memory(BYTES);
    client.map(0, RAM_BYTES, 0, memory);
    client.unmap(0, RAM_BYTES);
    client.map(8 * PAGE, PAGE, 0, memory);
    eduDma(client, true, 8 * PAGE, 64);
    client.unmap(8 * PAGE, PAGE);
    eduDma(client, true, 8 * PAGE, 64);
    served.disconnect();
    await served.stop();
    const frames = [...readTrace(trace)];
    expect(frames.filter(({ header }) => header.device === 0).map(({ kind }) => kind)).to.deep.equal([
      ...['deviceReady', 'deviceReport'],
    ]);
    const mine = frames.filter(({ header }) => header.device === 1);
    expect(mine.map(({ kind }) => kind)).to.deep.equal([
      ...['deviceReady', 'deviceLog', 'addressSpaceSwitch', 'addressSpaceSwitch', 'dmaFault'],
      ...['addressSpaceSwitch', 'deviceLog', 'deviceReport'],
    ]);
    const switches = mine.flatMap((frame) =>
      frame.kind === 'addressSpaceSwitch' ? [`${frame.body.from} to ${frame.body.to}`] : [],
    );
    expect(switches).to.deep.equal(['blocked to system', 'system to iommu', 'iommu to blocked']);
    const fault = mine.find(({ kind }) => kind === 'dmaFault')!;
    expect(fault.body).to.deep.equal({ iova: 8 * PAGE, write: true, denied: false });
    expect(served.worker(1).report).to.include({ switches: 1, mixedMaps: 0, faults: 1 });
  });
});
