/**
 * The record of a run: its events, its groups and stages, and the command that repeats it.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { repeatCommand } from '../../src/cli/repeat-command.ts';
import { EVENTS_LIMIT, RunEvents } from '../../src/scenario/run-events.ts';
import { recordOf } from '../../src/scenario/run-record.ts';
import { parseSettings } from '../../src/scenario/scenario.ts';
import { recordFixture } from '../fixtures/record.ts';
import { vmResult } from '../fixtures/run-results.ts';

describe('the record of a run', () => {
  it('has a bounded count of events, and counts the others', () => {
    const events = new RunEvents();
    for (let i = 0; i < EVENTS_LIMIT + 5; i++) events.add('boot', i);
    const list = events.list(0);
    expect([list.length, list.at(-1)?.vm, events.cut]).to.deep.equal([EVENTS_LIMIT, EVENTS_LIMIT - 1, 5]);
  });

  it('has groups with the numbers of their VMs, stages, losses and the evidence of violations', () => {
    const settings = parseSettings({
      name: 'x',
      groups: { a: { vms: 2, viommu: 'none' }, b: { vms: 3, vgpus: 2, boot: { at: '2s', every: '500ms' } } },
      load: {
        ramp: {
          group: 'b',
          executor: 'ramping-vus',
          startTime: '1s',
          stages: [
            { duration: '2s', target: 3 },
            { duration: '500ms', target: 0 },
          ],
          workload: { copy: 3, fill: 1 },
          measured: false,
        },
      },
    });
    const violation = { kind: 'stuck-model', detail: 'vm1/gpu0', repeats: 2 };
    const fixture = recordFixture();
    const record = recordOf(settings, { ...fixture, startedMs: 0 }, fixture, {
      results: new Map([
        [4, vmResult()],
        [1, vmResult({ violations: [violation] })],
      ]),
      lost: [{ vm: 0, reason: 'host process 0 died' }],
      events: [
        { seconds: 1, kind: 'end', vm: 0, text: '' },
        { seconds: 2, kind: 'end', vm: 1, text: '' },
      ],
      eventsCut: 0,
      timelines: [],
      iterations: [],
    });
    expect(
      record.groups.map(({ name, firstVm, vms, viommu, iommu }) => [name, firstVm, vms, viommu, iommu]),
    ).to.deep.equal([
      ['a', 0, 2, 'none', 'off'],
      ['b', 2, 3, 'intel', 'strict'],
    ]);
    expect(record.groups[1]).to.include({ vgpus: 2, bootSeconds: 2, bootEverySeconds: 0.5 });
    expect(record.stages).to.deep.equal([
      {
        name: 'ramp',
        group: 'b',
        executor: 'ramping-vus',
        workloads: { copy: 3, fill: 1 },
        measured: false,
        startSeconds: 1,
        endSeconds: 3.5,
      },
    ]);
    expect(record.events.map(({ kind, text }) => [kind, text])).to.deep.equal([
      ['lost', 'host process 0 died'],
      ['end', ''],
    ]);
    expect(record.evidence).to.deep.equal([{ vm: 1, ...violation }]);
    expect(record.startedAt).to.equal('1970-01-01T00:00:00.000Z');
  });

  it('has a command line for a shell', () => {
    const flags = { processes: 1, inject: '', param: {} };
    expect(repeatCommand('a.yaml', flags, 7)).to.equal('mdevsim run a.yaml --seed 7');
    expect(
      repeatCommand(
        "it's here.ts",
        { ...flags, vms: 2, processes: 3, inject: 'host-kill', param: { a: 'x y', n: 1 } },
        0,
      ),
    ).to.equal(
      String.raw`mdevsim run 'it'\''s here.ts' --seed 0 --vms 2 --processes 3 --inject host-kill -p 'a="x y"' -p n=1`,
    );
  });
});
