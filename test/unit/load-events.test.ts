/**
 * Events of a scenario: which settings are accepted, and what the director does with them.
 */
import { writeFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { nowUs, sleep } from '#host';
import { compileEvents, type VmEvent } from '../../src/load/events.ts';
import { readDataFile } from '../../src/scenario/data-file.ts';
import { Director } from '../../src/scenario/director.ts';
import { checkScenario, ScenarioError } from '../../src/scenario/scenario.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { until } from '../support/until.ts';

const GROUPS = 'name: x\ngroups:\n  web: { vms: 3 }\n  late: { boot: { at: 4s } }\n';
const LOAD =
  'load:\n  s: { executor: constant-vus, duration: 10s, gracefulStop: 1s, workload: copy }\nevents:\n';

/** Title, the only event, and the error behind `FILE:8:`. */
const MALFORMED: readonly (readonly [title: string, event: string, error: string])[] = [
  [
    'of an action that there is not',
    '{ at: 1s, rebot: web/0 }',
    "15: events.0.rebot: no action 'rebot'; nearest: reboot; accepted: migrate, reboot, crash, shutdown, boot, pause, resume, with at",
  ],
  [
    'without an action',
    '{ at: 1s }',
    '5: events.0: no action; accepted: one of migrate, reboot, crash, shutdown, boot, pause, resume',
  ],
  [
    'of two actions',
    '{ at: 1s, migrate: web/0, reboot: web/1 }',
    '39: events.0.reboot: a second action, beside migrate; accepted: one',
  ],
  [
    'with an option of another action',
    '{ at: 1s, reboot: web/0, to: 1 }',
    '34: events.0.to: not an option of reboot; accepted: ram',
  ],
  [
    'with RAM that is neither kept nor cleared',
    '{ at: 1s, reboot: web/0, ram: burn }',
    '35: events.0.ram: "burn"; accepted: keep, clear',
  ],
  [
    'with devices that neither run nor stop at a pause',
    '{ at: 1s, pause: web/0, devices: burn }',
    '38: events.0.devices: "burn"; accepted: run, stop',
  ],
  [
    'that leaves its VM paused',
    '{ at: 1s, pause: web/0 }',
    '22: events.0.pause: web/0 stays paused; accepted: with a later resume or crash',
  ],
  [
    'without a unit',
    '{ at: 1, migrate: web/0 }',
    '11: events.0.at: 1 has no unit; accepted: a number with us, ms, s, m or h, up to 24h',
  ],
  [
    'on a VM that there is not',
    '{ at: 1s, migrate: web/3 }',
    "24: events.0.migrate: no VM 'web/3'; nearest: web/0; accepted: web/0 to web/2, late/0",
  ],
  [
    'to a host process out of range',
    '{ at: 1s, migrate: web/0, to: 64 }',
    '35: events.0.to: 64; accepted: whole numbers from 0 to 63',
  ],
  [
    'before the boot of its VM',
    '{ at: 3999ms, migrate: late/0 }',
    '11: events.0.at: 3999ms is before the boot of late/0',
  ],
  [
    'after the load',
    '{ at: 11s, migrate: web/0 }',
    '11: events.0.at: 11s is after the end of the last stage',
  ],
];

describe('events', () => {
  const folder = temporaryFolder();
  const read = (text: string) => {
    const file = `${folder()}/scenario.yaml`;
    writeFileSync(file, text);
    try {
      return readDataFile(file).settings;
    } catch (error) {
      if (!(error instanceof ScenarioError)) throw error;
      throw new Error(error.message.replaceAll(file, 'FILE'));
    }
  };

  for (const [title, event, error] of MALFORMED)
    it(`are refused ${title}`, () => {
      expect(() => read(`${GROUPS}${LOAD}  - ${event}\n`)).to.throw(`FILE:8:${error}`);
    });

  it('are refused beside a script, which cannot move', () => {
    const settings = {
      name: 'x',
      load: { s: { executor: 'constant-vus', duration: '1s', workload: 'copy' } },
      events: [{ at: '1s', migrate: 'all/0' }],
    };
    expect(() => checkScenario({ default: { ...settings, async guest() {} } })).to.throw(
      ScenarioError,
      'events: events of VMs with a script guest(vm), which neither moves nor reboots; accepted: no guest(vm)',
    );
    expect(checkScenario({ default: settings }).settings.hosts).to.equal(2);
  });

  it('are refused without load', () => {
    const scenario = { name: 'x', async guest() {}, events: [{ at: '1s', migrate: 'all/0' }] };
    expect(() => checkScenario({ default: scenario })).to.throw(ScenarioError, 'events: events without load');
  });

  it('have as many host processes as they name, and are sorted by time', () => {
    const settings = read(
      `${GROUPS}${LOAD}  - { at: 6s, migrate: late/0, to: 4 }\n  - { at: 2s, migrate: web/2 }\n`,
    );
    expect(settings.hosts).to.equal(5);
    expect(compileEvents(settings)).to.deep.equal([
      {
        atUs: 2e6,
        action: 'migrate',
        vm: 2,
        name: 'web/2',
        to: undefined,
        clearRam: false,
        stopsDevices: false,
        isLast: true,
      },
      {
        atUs: 6e6,
        action: 'migrate',
        vm: 3,
        name: 'late/0',
        to: 4,
        clearRam: false,
        stopsDevices: false,
        isLast: true,
      },
    ]);
  });

  it('pause a VM that a later event resumes or crashes, in any order in the file', () => {
    const settings = read(
      `${GROUPS}${LOAD}  - { at: 3s, resume: web/1 }\n  - { at: 2s, pause: web/1, devices: stop }\n` +
        `  - { at: 4s, pause: web/1 }\n  - { at: 4s, crash: web/1 }\n`,
    );
    const of = ({ action, stopsDevices }: VmEvent) => [action, stopsDevices];
    expect(compileEvents(settings).map(of)).to.deep.equal([
      ['pause', true],
      ['resume', false],
      ['pause', false],
      ['crash', false],
    ]);
  });

  it('need one host process, unless a VM migrates', () => {
    const settings = read(`${GROUPS}${LOAD}  - { at: 2s, reboot: web/2, ram: clear }\n`);
    expect(settings.hosts).to.equal(1);
    expect(compileEvents(settings)).to.deep.equal([
      {
        atUs: 2e6,
        action: 'reboot',
        vm: 2,
        name: 'web/2',
        to: undefined,
        clearRam: true,
        stopsDevices: false,
        isLast: true,
      },
    ]);
  });
});

describe('director', () => {
  const migrate = (atUs: number, vm: number, to?: number): VmEvent => ({
    atUs,
    action: 'migrate',
    vm,
    name: `a/${vm}`,
    to,
    clearRam: false,
    stopsDevices: false,
    isLast: true,
  });
  const EVENTS = [
    migrate(0, 0, 1),
    { ...migrate(1000, 1), action: 'reboot' as const, clearRam: true },
    migrate(600e6, 0),
  ];

  async function directed() {
    const acts: unknown[] = [];
    const records: string[] = [];
    const director = new Director(EVENTS, {
      act: ({ action, vm, to }, number) => acts.push([action, vm, to, number]),
      noMoreBoots: (vm) => acts.push(['no more boots', vm]),
      record: (kind, vm, text) => records.push(`${kind} ${vm} ${text}`.trim()),
    });
    director.start(nowUs());
    await until(() => acts.length === 2, 'two actions', 10_000);
    director.done(1, 'the VM is booting');
    director.done(0, '');
    director.done(7, ''); // of no event
    await sleep(0);
    return { director, acts, records };
  }

  it('begins events at their times and records their ends', async () => {
    const { director, acts, records } = await directed();
    expect(acts).to.deep.equal([
      ['migrate', 0, 1, 0],
      ['reboot', 1, undefined, 1],
    ]);
    expect(records).to.deep.equal([
      'migrate 0 migrate a/0 to 1',
      'reboot 1 reboot a/1, RAM cleared',
      'reboot failed 1 the VM is booting',
      'migrate done 0',
    ]);
    const [first, second, third] = director.end(true);
    expect(first).to.include({ action: 'migrate a/0 to 1', seconds: 0, error: '' });
    expect(first?.endSeconds).to.be.above(0);
    expect(second?.error).to.equal('the VM is booting');
    expect(third).to.deep.equal({
      action: 'migrate a/0',
      seconds: 600,
      endSeconds: null,
      error: 'the run has ended before',
    });
  });

  it('begins an action on a VM when the last one on it has ended', async () => {
    const acts: string[] = [];
    const events = [
      { ...migrate(0, 0), action: 'crash' as const, isLast: false },
      { ...migrate(10, 0), action: 'boot' as const },
      { ...migrate(20, 1), action: 'reboot' as const },
    ];
    const director = new Director(events, {
      act: ({ action, vm }) => acts.push(`${action} ${vm}`),
      noMoreBoots: (vm) => acts.push(`no more boots of ${vm}`),
      record: () => {},
    });
    director.start(nowUs());
    await until(() => acts.length === 2, 'the actions that need not wait', 10_000);
    expect(acts).to.deep.equal(['crash 0', 'reboot 1']);
    director.done(0, '');
    expect(acts.at(-1)).to.equal('boot 0');
    director.done(1, 'the VM has ended');
    expect(acts.at(-1), 'a VM that is closed must not wait for a boot').to.equal('no more boots of 0');
  });

  it('carries out the actions of a script, until it ends', async () => {
    const acts: string[] = [];
    const director = new Director([{ ...migrate(0, 1), action: 'crash' as const }], {
      act: ({ action, vm, isLast }) => acts.push(`${action} ${vm}${isLast ? ', last' : ''}`),
      noMoreBoots: (vm) => acts.push(`no more boots of ${vm}`),
      record: () => {},
    });
    const action = (name: VmEvent['action'], vm: number) => ({ ...migrate(0, vm), action: name });
    director.scriptStarted();
    director.start(nowUs());
    await until(() => acts.length === 1, 'the event', 10_000);
    expect(acts, 'a VM that crashes may be booted by the script').to.deep.equal(['crash 1']);
    const crashed = director.act(action('crash', 0));
    const booted = director.act(action('boot', 0));
    director.done(1, '');
    director.done(2, 'the VM has ended');
    expect([await crashed, await booted]).to.deep.equal(['', 'the VM has ended']);
    const rebooted = director.act(action('reboot', 3));
    let hasBooted = false;
    const waits = director.whenBooted(3).then(() => {
      hasBooted = true;
    });
    director.done(3, '');
    await rebooted;
    await director.whenBooted(0);
    expect(hasBooted, 'the reboot has begun').to.equal(false);
    director.booted(3);
    await waits;
    const paused = director.act(action('pause', 2));
    director.done(4, '');
    await paused;
    acts.splice(0);
    director.scriptEnded('');
    expect(acts).to.deep.equal([
      'no more boots of 1',
      'no more boots of 0',
      'no more boots of 3',
      'no more boots of 2',
      'resume 2',
    ]);
    expect(await director.act(action('crash', 0))).to.equal('the run ends; accepted: a run that lasts');
    expect(director.end(true).at(-1)).to.include({
      action: 'director(run)',
      error: 'it has left a/2 paused',
    });
  });

  it('does not blame the events of a run that was ended early', async () => {
    const { director } = await directed();
    expect(director.end(false).map(({ error }) => error)).to.deep.equal(['', 'the VM is booting', '']);
  });
});
