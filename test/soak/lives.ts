/**
 * `npm run soak:lives -- [--lives N] [--viommu KIND]`: one VM boots, does ten commands, and crashes or is shut down, over
 * and over in this process. Prints what the process holds in the first and in the last tenth of the lives; exits with 1
 * if anything has grown beyond GROWTH_LIMIT, or any life was not sound.
 *
 * The script in package.json sets MALLOC_ARENA_MAX=2. With the default, glibc has an arena for each of many threads that
 * come and go, and what it keeps there grows for hundreds of lives (16 KiB to 32 KiB a life were seen); with two arenas it
 * stays flat, so that the figures show what the process itself holds.
 */
import { parseArgs } from 'node:util';
import { nowUs, sleep } from '#host';
import { Coordinator } from '../../src/coordinator/coordinator.ts';
import { VmLife } from '../../src/coordinator/host/vm-life.ts';
import type { VmConfig } from '../../src/coordinator/vm/config.ts';
import type { Vm } from '../../src/coordinator/vm/vm.ts';
import { DEFAULT_MODEL, DEVICE_TIMEOUT_MS } from '../../src/coordinator/workers/supervisor.ts';
import { compileLoad } from '../../src/load/compile.ts';
import type { VmLoad } from '../../src/load/guest/load-run.ts';
import { loadShape } from '../../src/load/schema.ts';
import type { Hpa } from '../../src/memory/address.ts';
import { HPA_BASE } from '../../src/memory/host-memory.ts';
import { VIOMMU_KINDS } from '../../src/viommu/create-viommu.ts';
import { growthOf, type Held, heldNow, medianOf } from './held.ts';

const COMMANDS = 10;
const RAM_BYTES = 16 * 2 ** 20;
const DEFAULT_LIVES = 300;
const LIVES_MIN = 20;
const LIVES_MAX = 1_000_000;
/** Lives before the first measured one: they fill caches and pools that keep their size. */
const WARM_UP_LIVES = 30;
/** Lives between two samples. The memory of a dead VM is freed by the collector, which each sample runs. */
const SAMPLE_EVERY = 10;
/** Time limit of one life, generous for busy machines. */
const LIFE_MS = 120_000;
const POLL_MS = 2;
const GROWTH_LIMIT = 1.05;

const { values } = parseArgs({
  options: {
    lives: { type: 'string', default: String(DEFAULT_LIVES) },
    viommu: { type: 'string', default: 'intel' },
  },
});
const lives = Number(values.lives);
if (!Number.isInteger(lives) || lives < LIVES_MIN || lives > LIVES_MAX)
  refuse(`--lives ${values.lives}; accepted: ${LIVES_MIN} to ${LIVES_MAX}`);
if (!VIOMMU_KINDS.includes(values.viommu))
  refuse(`--viommu ${values.viommu}; accepted: ${VIOMMU_KINDS.join(', ')}`);

function refuse(why: string): never {
  process.stderr.write(`soak:lives: ${why}\n`);
  process.exit(104);
}

/** A stage that has not ended when the VM does. */
const ENDLESS = { executor: 'constant-vus', vus: 1, duration: '24h', workload: 'copy' };

function configOf(viommu: string): VmConfig {
  const stages = compileLoad(loadShape.parse({ busy: ENDLESS }));
  const load: VmLoad = {
    iommu: viommu === 'none' ? 'off' : 'strict',
    stages: stages.map((stage) => ({ ...stage, share: { index: 0, count: 1 } })),
    sampled: 0,
  };
  return {
    process: 0,
    vm: 0,
    vgpus: 1,
    mdevTypes: [],
    seed: 1,
    hpaBase: HPA_BASE as Hpa,
    ramBytes: RAM_BYTES,
    viommu,
    scenario: '',
    params: {},
    folder: '',
    model: DEFAULT_MODEL,
    modelSource: '',
    deviceTimeoutMs: DEVICE_TIMEOUT_MS,
    load: JSON.stringify(load),
    gpuTypes: [],
    bootUs: 0,
    timeoutMs: 86_400_000,
    inject: '',
    migrations: 0,
    lostDevices: [],
    loadState: '',
  };
}

/** One VM over its lives, as a host process has it. */
class Soak {
  readonly #coordinator: Coordinator;
  readonly #life: VmLife;
  readonly #startUs = nowUs();
  readonly #ended: ReturnType<VmLife['run']>;

  constructor() {
    const bundle = (path: string) => new URL(`../../dist/${path}`, import.meta.url);
    this.#coordinator = new Coordinator({
      vms: [configOf(values.viommu)],
      workers: { device: bundle('workers/device-bundle.js'), guest: bundle('bundle/guest/guest.js') },
      trace: '',
      load: {
        booted: async () => {
          this.#life.booted();
          return this.#startUs;
        },
        started: Promise.resolve(this.#startUs),
        metrics: () => {},
      },
    });
    this.#coordinator.start();
    const first = this.#coordinator.vms[0] as Vm;
    const run = async (vm: Vm) => {
      await vm.startDevices();
      return vm.runGuest();
    };
    this.#life = new VmLife(first, {
      build: (config) => this.#coordinator.addVm(config),
      run,
      closed: () => {},
      remove: (vm) => this.#coordinator.removeVm(vm),
    });
    this.#ended = this.#life.run(run(first));
  }

  /** Lets the VM work, and ends it. @throws Error */
  async live(action: 'crash' | 'shutdown'): Promise<void> {
    const since = nowUs();
    while (this.#life.vm.progress.operations < COMMANDS) {
      if (nowUs() - since > LIFE_MS * 1000)
        throw new Error(`${COMMANDS} commands took more than ${LIFE_MS} ms`);
      await sleep(POLL_MS);
    }
    await this.#act(action);
  }

  boot(): Promise<void> {
    return this.#act('boot');
  }

  /** Ends the VM for good; returns why any of its lives was not sound. */
  async end(): Promise<string[]> {
    this.#life.end();
    const {
      failures,
      violations,
      mismatches,
      checksFailed,
      failedDevices,
      scriptError,
      lost,
      faultsUnexpected,
    } = await this.#ended;
    await this.#coordinator.close();
    const counts = { mismatches, checksFailed, faultsUnexpected, violations: violations.length };
    const wrong = Object.entries(counts).filter(([, count]) => count > 0);
    return [
      ...wrong.map(([name, count]) => `${count} ${name}`),
      ...failures,
      ...violations.map(({ kind, detail }) => `${kind}: ${detail}`),
      ...failedDevices.map((device) => `failed device: ${JSON.stringify(device)}`),
      ...[scriptError, lost].filter((text) => text !== ''),
    ];
  }

  async #act(action: string): Promise<void> {
    const options = { to: 0, clearRam: false, isLast: false, stopsDevices: false };
    const error = await this.#life.act({ action, event: 0, ...options });
    if (error !== '') throw new Error(`${action}: ${error}`);
  }
}

const line = (name: string, { rssMiB, threads, descriptors, maps }: Held): string =>
  `${name.padEnd(12)}${rssMiB.toFixed(1)} MiB RSS, ${threads} threads, ${descriptors} descriptors, ${maps} maps\n`;

const soak = new Soak();
const samples: Held[] = [];
const sinceUs = nowUs();
for (let life = 0; life < WARM_UP_LIVES + lives; life++) {
  if (life > 0) await soak.boot();
  await soak.live(life % 2 === 0 ? 'crash' : 'shutdown');
  if (life < WARM_UP_LIVES || life % SAMPLE_EVERY !== 0) continue;
  samples.push(heldNow());
  if (samples.length % 10 === 0) process.stderr.write(line(`life ${life}`, samples.at(-1) as Held));
}
const seconds = (nowUs() - sinceUs) / 1e6;
const problems = await soak.end();
const tenth = Math.max(1, Math.ceil(samples.length / 10));
const [first, last] = [medianOf(samples.slice(0, tenth)), medianOf(samples.slice(-tenth))];
const grown = growthOf(first, last, GROWTH_LIMIT).map((name) => `${name} grew beyond ${GROWTH_LIMIT} ×`);
const rate = (WARM_UP_LIVES + lives) / seconds;
process.stdout.write(line('first tenth', first) + line('last tenth', last));
process.stdout.write(`${lives} lives after ${WARM_UP_LIVES} to warm up, ${rate.toFixed(1)} a second\n`);
for (const problem of [...grown, ...problems]) process.stdout.write(`  ${problem}\n`);
process.exit(grown.length + problems.length > 0 ? 1 : 0);
