/**
 * Scenarios as data: valid YAML and JSON, and the exact text for every kind of malformed file.
 */
import { writeFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { WORKLOAD_NAMES, WORKLOADS } from '../../src/load/workload-names.ts';
import { METRICS } from '../../src/metrics/catalogue.ts';
import { readDataFile } from '../../src/scenario/data-file.ts';
import { checkScenario, ScenarioError } from '../../src/scenario/scenario.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const ALL = WORKLOAD_NAMES.join(', ');
const READY = Object.keys(WORKLOADS).join(', ');
const METRIC_NAMES = Object.keys(METRICS).join(', ');
const EXECUTORS =
  'constant-vus, ramping-vus, per-vu-iterations, shared-iterations, constant-arrival-rate, ramping-arrival-rate';

/** Title, text of the file, and the error with FILE for the file's path. */
const MALFORMED: readonly (readonly [title: string, text: string, error: string])[] = [
  [
    'a list without its end',
    'name: [x\n',
    'FILE:2:1: Flow sequence in block collection must be sufficiently indented and end with a ]',
  ],
  ['a key that is there twice', 'name: x\nname: y\n', 'FILE:2:1: Map keys must be unique'],
  ['a tab as indentation', 'name: x\n\tload: 1\n', 'FILE:2:1: Tabs are not allowed as indentation'],
  ['a list in place of settings', '- 1\n', 'FILE:1:1: scenario: [1]; accepted: settings by name'],
  ['an empty file', '', 'FILE:1:1: scenario: null; accepted: settings by name'],
  [
    'an unknown setting',
    'name: x\nvgus: 3\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\n',
    "FILE:2:1: vgus: no setting 'vgus'; nearest: vgpus; accepted: name, question, vms, vgpus, mdevs, ramMiB, viommu, gpu, hosts, timeoutMs, model, deviceTimeoutMs, baselineWorkers, params, groups, load, iommu, events, thresholds",
  ],
  [
    'a text in place of a count',
    'name: x\nvms: many\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\n',
    'FILE:2:6: vms: "many"; accepted: whole numbers from 1 to 1024',
  ],
  [
    'a count out of range',
    'name: x\nvms: 0\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\n',
    'FILE:2:6: vms: 0; accepted: whole numbers from 1 to 1024',
  ],
  [
    'a fraction in place of a count',
    'name: x\nvms: 1.5\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\n',
    'FILE:2:6: vms: 1.5; accepted: whole numbers from 1 to 1024',
  ],
  [
    'an unknown vIOMMU',
    'name: x\nviommu: intell\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\n',
    "FILE:2:9: viommu: no vIOMMU 'intell'; nearest: intel; accepted: none, intel, intel-scalable, amd, virtio, spapr",
  ],
  [
    'no load',
    'name: x\nvms: 1\n',
    'FILE:1:1: load: missing; accepted: stages of load, because a data file has no script',
  ],
  ['a load without stages', 'name: x\nload: {}\n', 'FILE:2:7: load: accepted: at least one stage'],
  [
    'an unknown executor',
    'name: x\nload:\n  s: { executor: constant-vu, duration: 1s, workload: copy }\n',
    `FILE:3:18: load.s.executor: no executor 'constant-vu'; nearest: constant-vus; accepted: ${EXECUTORS}`,
  ],
  [
    'no executor',
    'name: x\nload:\n  s: { duration: 1s, workload: copy }\n',
    `FILE:3:3: load.s.executor: missing; accepted: ${EXECUTORS}`,
  ],
  [
    'a duration without a unit',
    'name: x\nload:\n  s: { executor: constant-vus, duration: 5, workload: copy }\n',
    'FILE:3:42: load.s.duration: 5 has no unit; accepted: a number with us, ms, s, m or h, up to 24h',
  ],
  [
    'a duration with a space',
    'name: x\nload:\n  s: { executor: constant-vus, duration: 5 s, workload: copy }\n',
    'FILE:3:42: load.s.duration: "5 s"; accepted: a number with us, ms, s, m or h, up to 24h',
  ],
  [
    'no duration',
    'name: x\nload:\n  s: { executor: constant-vus, workload: copy }\n',
    'FILE:3:3: load.s.duration: missing; accepted: a number with us, ms, s, m or h, up to 24h',
  ],
  [
    'an unknown workload',
    'name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: cpy }\n',
    `FILE:3:56: load.s.workload: no workload 'cpy'; nearest: copy; accepted: ${ALL}`,
  ],
  [
    'no workload',
    'name: x\nload:\n  s: { executor: constant-vus, duration: 1s }\n',
    `FILE:3:6: load.s: no workload; accepted: ${READY}`,
  ],
  [
    'weights that are all 0',
    'name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: { copy: 0 } }\n',
    'FILE:3:56: load.s.workload: accepted: at least one workload with a weight above 0',
  ],
  [
    'an unknown workload in a mix',
    'name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: { fil: 1 } }\n',
    'FILE:3:58: load.s.workload.fil: Unrecognized key: "fil"\nFILE:3:56: load.s.workload: accepted: at least one workload with a weight above 0',
  ],
  [
    'a function that a data file cannot have',
    'name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: iteration }\n',
    `FILE:3:56: load.s.workload: 'iteration' is the scenario's own function, and it has none; accepted: ${READY}`,
  ],
  [
    'too many VUs',
    'name: x\nload:\n  s: { executor: constant-vus, vus: 200, duration: 1s, workload: copy }\n',
    'FILE:3:37: load.s.vus: 200; accepted: whole numbers from 1 to 128',
  ],
  [
    'a rate of 0',
    'name: x\nload:\n  s: { executor: constant-arrival-rate, rate: 0, duration: 1s, workload: copy }\n',
    'FILE:3:47: load.s.rate: 0; accepted: numbers from 0.000001 to 1000000',
  ],
  [
    'a rate that cannot be',
    'name: x\nload:\n  s: { executor: constant-arrival-rate, rate: 1e9, duration: 1s, workload: copy }\n',
    'FILE:3:47: load.s.rate: 1000000000; accepted: numbers from 0.000001 to 1000000',
  ],
  [
    'no rate',
    'name: x\nload:\n  s: { executor: constant-arrival-rate, duration: 1s, workload: copy }\n',
    'FILE:3:3: load.s.rate: missing; accepted: numbers from 0.000001 to 1000000',
  ],
  [
    'a ramp without parts',
    'name: x\nload:\n  s: { executor: ramping-vus, stages: [], workload: copy }\n',
    'FILE:3:39: load.s.stages: accepted: a list of { duration, target }, at least one',
  ],
  [
    'a negative target',
    'name: x\nload:\n  s: { executor: ramping-vus, stages: [ { duration: 1s, target: -1 } ], workload: copy }\n',
    'FILE:3:65: load.s.stages.0.target: -1; accepted: whole numbers from 0 to 128',
  ],
  [
    'an unknown name in a ramp',
    'name: x\nload:\n  s: { executor: ramping-vus, stages: [ { duraton: 1s, target: 1 } ], workload: copy }\n',
    "FILE:3:41: load.s.stages.0.duration: missing; accepted: a number with us, ms, s, m or h, up to 24h\nFILE:3:43: load.s.stages.0.duraton: no setting 'duraton'; nearest: duration; accepted: duration, target",
  ],
  [
    'an option of another executor',
    'name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy, rate: 5 }\n',
    "FILE:3:62: load.s.rate: no setting 'rate'; nearest: group; accepted: group, workload, startTime, gracefulStop, measured, verify, executor, vus, duration",
  ],
  [
    'a part above 1',
    'name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy, verify: 2 }\n',
    'FILE:3:70: load.s.verify: 2; accepted: numbers from 0 to 1',
  ],
  [
    'an invalid name of a stage',
    'name: x\nload:\n  9s: { executor: constant-vus, duration: 1s, workload: copy }\n',
    'FILE:3:3: load.9s: accepted: up to 32 letters, digits, _ and -, a letter at the start',
  ],
  [
    'a workload that needs translation, without a vIOMMU',
    'name: x\nviommu: none\nload:\n  s: { executor: constant-vus, duration: 1s, workload: dma-churn }\n',
    'FILE:4:56: load.s.workload: dma-churn needs translation; accepted with a vIOMMU and iommu: strict or lazy (here: none, off)',
  ],
  [
    'an unknown group',
    'name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy, group: web }\n',
    "FILE:3:69: load.s.group: no group 'web'; accepted: no group, because the scenario has no groups",
  ],
  [
    'a threshold on an unknown metric',
    "name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\nthresholds:\n  comand_latency: ['p(99)<1s']\n",
    `FILE:5:3: thresholds.comand_latency: no metric 'comand_latency'; nearest: command_latency; accepted: ${METRIC_NAMES}`,
  ],
  [
    'a threshold without its unit',
    "name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\nthresholds:\n  command_latency: ['p(99)<1']\n",
    "FILE:5:21: thresholds.command_latency.0: '1' in 'p(99)<1'; accepted for command_latency: a number with us, ms, s, m or h",
  ],
  [
    'an invalid condition',
    "name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\nthresholds:\n  command_latency: ['p(99)=1s']\n",
    "FILE:5:21: thresholds.command_latency.0: 'p(99)=1s' is no condition; accepted: an aggregation, < <= > >= == != and a value, such as p(99)<20ms",
  ],
  [
    'a threshold on an unknown stage',
    "name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\nthresholds:\n  command_latency{stage:web}: ['p(99)<1s']\n",
    "FILE:5:3: thresholds.command_latency{stage:web}: no stage 'web'; nearest: s; accepted: s",
  ],
  [
    'a metric without conditions',
    'name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\nthresholds:\n  command_latency: []\n',
    'FILE:5:20: thresholds.command_latency: accepted: a list of 1 to 64 conditions',
  ],
  [
    'a condition outside a list',
    "name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\nthresholds:\n  command_latency: 'p(99)<1s'\n",
    'FILE:5:20: thresholds.command_latency: accepted: a list of 1 to 64 conditions',
  ],
  [
    'an unknown name in a threshold',
    "name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\nthresholds:\n  iterations: [ { treshold: 'count>1' } ]\n",
    'FILE:5:17: thresholds.iterations.0: accepted: a condition such as p(99)<20ms, or { threshold, abortOnFail, delayAbortEval }',
  ],
  [
    'translation without a vIOMMU',
    'name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\niommu: strict\nviommu: none\n',
    'FILE:4:8: iommu: strict without a vIOMMU; accepted: off',
  ],
  [
    'invalid thresholds',
    'name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\nthresholds: 5\n',
    'FILE:4:13: thresholds: accepted: conditions by metric',
  ],
  ['an invalid load', 'name: x\nload: 5\n', 'FILE:2:7: load: 5; accepted: stages by name'],
  [
    'an invalid stage',
    'name: x\nload:\n  s: 5\n',
    'FILE:3:6: load.s: 5; accepted: an executor and its options',
  ],
  [
    'a count beside groups',
    'name: x\nvms: 3\ngroups: { web: { vms: 2 } }\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\n',
    'FILE:2:6: vms: 3 beside groups; accepted: no vms, because the groups have 2',
  ],
  [
    'groups without a group',
    'name: x\ngroups: {}\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\n',
    'FILE:2:9: groups: accepted: at least one group',
  ],
  [
    'a group without VMs',
    'name: x\ngroups: { web: { vms: 0 } }\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\n',
    'FILE:2:23: groups.web.vms: 0; accepted: whole numbers from 1 to 1024',
  ],
  [
    'an unknown setting of a group',
    'name: x\ngroups: { web: { vm: 2 } }\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\n',
    "FILE:2:18: groups.web.vm: no setting 'vm'; nearest: vms; accepted: vms, vgpus, ramMiB, viommu, iommu, types, boot",
  ],
  [
    'an unknown type of vGPU',
    'name: x\ngroups: { web: { types: [vgpu-3g] } }\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\n',
    "FILE:2:26: groups.web.types.0: no vGPU type 'vgpu-3g'; nearest: vgpu-1g; accepted: vgpu-512m, vgpu-1g, vgpu-2g, vgpu-4g, vgpu-8g, vgpu-16g",
  ],
  [
    'groups that all boot later',
    'name: x\ngroups: { web: { boot: { at: 5s } } }\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\n',
    'FILE:2:9: groups: no group boots at 0s; accepted: at least one, which starts the clock',
  ],
  [
    'an unknown group among others',
    'name: x\ngroups: { web: { viommu: none } }\nload:\n  s: { group: wbe, executor: constant-vus, duration: 1s, workload: copy }\n',
    "FILE:4:15: load.s.group: no group 'wbe'; nearest: web; accepted: web",
  ],
  [
    'a group with translation but without a vIOMMU',
    'name: x\ngroups: { web: { viommu: none, iommu: strict } }\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\n',
    'FILE:2:39: groups.web.iommu: strict without a vIOMMU; accepted: off',
  ],
  [
    'a workload that one of the groups cannot run',
    'name: x\ngroups: { web: { viommu: none }, db: {} }\nload:\n  s: { executor: constant-vus, duration: 1s, workload: dma-churn }\n',
    'FILE:4:56: load.s.workload: dma-churn needs translation; accepted with a vIOMMU and iommu: strict or lazy (here: none, off)',
  ],
  [
    'a threshold on an unknown group',
    "name: x\ngroups: { web: {} }\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\nthresholds:\n  iterations{group:wb}: ['count>0']\n",
    "FILE:6:3: thresholds.iterations{group:wb}: no group 'wb'; nearest: web; accepted: web",
  ],
  [
    'lazy unmaps behind sPAPR',
    'name: x\niommu: lazy\nviommu: spapr\nload:\n  s: { executor: constant-vus, duration: 1s, workload: copy }\n',
    'FILE:2:8: iommu: lazy behind spapr, where a changed TCE takes effect at once; accepted: strict',
  ],
  [
    'a lazy workload without lazy unmaps',
    'name: x\nload:\n  s: { executor: constant-vus, duration: 1s, workload: dma-lazy }\n',
    'FILE:3:56: load.s.workload: dma-lazy needs translation; accepted with a vIOMMU and iommu: lazy (here: intel, strict)',
  ],
];

const VALID = `# A comment
name: data
vms: 3
load:
  warmup: { executor: per-vu-iterations, iterations: 5, workload: fill, measured: false }
  main:
    executor: ramping-arrival-rate
    startTime: 1s
    maxVUs: 16
    stages:
      - { duration: 1s, target: 50 }
      - { duration: 1m30s, target: 50 }
    workload: { copy: 3, dma-churn: 1 }
thresholds:
  command_latency{stage:main}: ['p(99)<20ms', { threshold: 'max<1s', abortOnFail: true }]
`;

describe('scenarios as data', () => {
  const path = temporaryFolder();
  const read = (name: string, text: string) => {
    writeFileSync(path(name), text);
    return readDataFile(path(name)).settings;
  };

  it('are read from YAML', () => {
    const settings = read('x.yaml', VALID);
    expect([settings.name, settings.vms, settings.vgpus, settings.viommu]).to.deep.equal([
      'data',
      3,
      1,
      'intel',
    ]);
    expect(settings.load?.main).to.include({ executor: 'ramping-arrival-rate', startTime: '1s', verify: 1 });
    expect(settings.thresholds['command_latency{stage:main}']?.[1]).to.deep.equal({
      threshold: 'max<1s',
      abortOnFail: true,
      delayAbortEval: '0s',
    });
  });

  it('are the same in YAML, JSON and TypeScript', () => {
    const fromYaml = read('x.yaml', VALID);
    const { load, thresholds } = fromYaml;
    const written = { name: 'data', vms: 3, load, thresholds };
    expect(read('x.json', JSON.stringify(written))).to.deep.equal(fromYaml);
    expect(checkScenario({ default: written }).settings).to.deep.equal(fromYaml);
  });

  it('refuse functions that do not go with load', () => {
    const load = { a: { executor: 'constant-vus', duration: '1s', workload: 'copy' } };
    const check = (more: object) => () => checkScenario({ default: { name: 'x', load, ...more } });
    expect(check({ resume: () => {} })).to.throw(/resume with load: .* accepted: one of them/);
    expect(check({ iteration: 5 })).to.throw(/iteration is not a function/);
    expect(check({ load: undefined })).to.throw(
      /neither guest nor load; accepted: a function guest\(vm\), or stages/,
    );
    expect(check({ thresholds: { own: ['count>0'] } })).to.throw(/no metric 'own'; nearest: /);
    expect(check({ thresholds: { own: ['count>0'] }, guest: () => {} })).to.not.throw();
  });

  it('name every problem of a file, in lines', () => {
    const text = 'name: x\nvms: 0\nload:\n  a: { executor: constant-vus, duration: 1, workload: copy }\n';
    expect(() => read('x.yaml', text)).to.throw(
      ScenarioError,
      /x\.yaml:2:6: vms.*\n.*x\.yaml:4:\d+: load\.a\.duration/,
    );
  });

  it('refuse files that are too large, and aliases without end', () => {
    expect(() => read('x.yaml', `# ${'x'.repeat(2 ** 20)}`)).to.throw(
      /1048578 bytes; accepted: up to 1048576/,
    );
    const layers = Array.from({ length: 9 }, (_, i) => `l${i + 1}: &l${i + 1} [${Array(9).fill(`*l${i}`)}]`);
    expect(() => read('x.yaml', `l0: &l0 [1]\n${layers.join('\n')}\n`)).to.throw(ScenarioError, /alias/i);
  });

  for (const [title, text, error] of MALFORMED)
    it(`refuse ${title}`, () => {
      expect(() => read('x.yaml', text))
        .to.throw(ScenarioError)
        .with.property('message', error.replaceAll('FILE', path('x.yaml')));
    });
});
