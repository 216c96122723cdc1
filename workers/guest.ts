/**
 * Entry of a guest worker: loads the scenario's script and runs it as the VM's guest. Called through Comlink.
 */
import { type MessagePort, workerData } from 'node:worker_threads';
import * as Comlink from 'comlink';
import { nowUs, yieldToOthers } from '#host';
import { GuestVm } from '../src/guest/guest-vm.ts';
import { MetricsSender } from '../src/guest/metrics-sender.ts';
import { VmMovedError } from '../src/guest/migration.ts';
import type { GuestApi, GuestReport, GuestSnapshot, GuestTask, VmControl } from '../src/guest/protocol.ts';
import { LoadRun, type VmLoad } from '../src/load/guest/load-run.ts';
import type { SavedLoad, SavedStage } from '../src/load/guest/saved-load.ts';
import { importScenario } from '../src/scenario/load.ts';
import type { CheckedScenario } from '../src/scenario/scenario.ts';
import { boundOutput } from './bound-output.ts';
import { errorText } from './error-text.ts';

const { task, port } = workerData as { task: GuestTask; port: MessagePort };

yieldToOthers();
const flushOutput = boundOutput();

/** Report of a guest that has not started. */
const NO_REPORT: GuestReport = { histograms: [], deviceHistograms: [], error: '' };

/** The VM of the running script, its metrics and its load. */
let vm: GuestVm | undefined;
let metrics: MetricsSender | undefined;
let load: LoadRun | undefined;
let isLoadStopped = false;
/** Resolves when the stages run; undefined until the guest has booted. */
let running: Promise<void> | undefined;
let onRunning: () => void = () => {};

const api: GuestApi = {
  async load(): Promise<void> {
    await importScript().catch(() => {}); // run() reports the error
  },

  async run(control: VmControl, snapshot?: GuestSnapshot): Promise<GuestReport> {
    const guest = new GuestVm({ ...task, snapshot }, control);
    vm = guest;
    metrics = new MetricsSender(guest.metrics, control, task.load !== '');
    try {
      if (!snapshot) await startScript(guest, control, metrics);
      else if (task.load === '') await resumeScript(guest, control, snapshot);
      else await resumeLoad(guest, control, metrics, snapshot);
      return guest.report('');
    } catch (error) {
      return guest.report(error instanceof VmMovedError ? '' : errorText(error, task.scenario));
    } finally {
      await metrics.end();
      await flushOutput();
    }
  },

  stopLoad(): boolean {
    isLoadStopped = true;
    load?.stop();
    return load?.isRunning === true;
  },

  async migrate(to: number | undefined): Promise<string> {
    await running;
    if (!load?.isRunning) return 'the VM is booting; accepted: a running VM';
    return load
      .migrate(to, async () => metrics?.send())
      .then(
        () => '',
        (error: Error) => error.message,
      );
  },

  async setPaused(paused: boolean): Promise<string> {
    await running;
    if (paused && !load?.isRunning) return 'the VM is booting; accepted: a running VM';
    vm?.setPaused(paused);
    load?.setPaused(paused);
    return '';
  },

  async screenshot(index: number): Promise<Uint8Array> {
    const name = task.devices[index]?.name;
    const gpu = vm?.gpus.find((each) => each.name === name);
    const device = gpu?.driver ?? vm?.devices.find((each) => each.name === name);
    if (!device) throw new Error(`${name ?? `device ${index}`} has not started; accepted: a running device`);
    return device.screenshot();
  },

  async report(): Promise<GuestReport> {
    await metrics?.send();
    return vm?.report('') ?? NO_REPORT;
  },

  async halt(isOrderly: boolean): Promise<GuestReport> {
    const stages = (isOrderly ? await load?.shutDown() : load?.halt()) ?? [];
    await metrics?.end();
    return {
      ...(vm?.report('') ?? NO_REPORT),
      load: stages.length > 0 ? JSON.stringify(stages) : (task.loadState ?? ''),
    };
  },
};

/** Resolves to the functions of the scenario; a data file has none. */
async function importScript(): Promise<Pick<CheckedScenario, 'guest' | 'resume' | 'iteration'>> {
  if (task.scenario !== '') return importScenario(task.scenario);
  return { guest: undefined, resume: undefined, iteration: undefined };
}

async function startScript(vm: GuestVm, control: VmControl, sender: MetricsSender): Promise<void> {
  const bootUs = nowUs();
  const { guest, resume, iteration } = await importScript();
  vm.migratable = resume !== undefined;
  for (const gpu of vm.gpus) await vm.startGpu(gpu);
  for (const device of vm.devices) await vm.startDevice(device);
  if (task.load === '') {
    await guest?.(vm);
    return;
  }
  load = newLoad(vm, sender, iteration);
  await load.boot();
  vm.metrics.trend('boot_time').add(nowUs() - bootUs);
  await vm.phase('load');
  awaitRun();
  const startUs = await control.booted();
  sender.start(startUs);
  try {
    await Promise.all([runLoad(load, startUs), guest?.(vm)]);
  } finally {
    load.stop();
  }
}

function newLoad(vm: GuestVm, sender: MetricsSender, iteration: CheckedScenario['iteration']): LoadRun {
  const before = JSON.parse(task.loadState || '[]') as SavedStage[];
  const run = new LoadRun(vm, JSON.parse(task.load) as VmLoad, iteration, before);
  sender.takeIterations = () => run.takeIterations();
  if (isLoadStopped) run.stop();
  return run;
}

/** Continues the declared load of a VM from another host. */
async function resumeLoad(
  vm: GuestVm,
  control: VmControl,
  sender: MetricsSender,
  { script }: GuestSnapshot,
): Promise<void> {
  const { iteration } = await importScript();
  load = newLoad(vm, sender, iteration);
  await load.restore(script as SavedLoad);
  awaitRun();
  await control.resumed();
  for (const { driver } of vm.gpus) driver.resume();
  await vm.phase('load');
  const startUs = await control.clockStart();
  sender.start(startUs);
  await runLoad(load, startUs);
}

/** The host is about to hear that the guest has booted: its next calls wait until the stages run. */
function awaitRun(): void {
  running = new Promise((resolve) => {
    onRunning = resolve;
  });
}

function runLoad(load: LoadRun, startUs: number): Promise<void> {
  const run = load.run(startUs);
  onRunning();
  return run;
}

async function resumeScript(vm: GuestVm, control: VmControl, { script }: GuestSnapshot): Promise<void> {
  const { resume } = await importScript();
  if (!resume) throw new Error('the scenario has no resume(vm, state)');
  vm.migratable = true;
  await control.resumed();
  for (const { driver } of vm.gpus) driver.resume();
  await resume(vm, script);
}

Comlink.expose(api, port as unknown as Comlink.Endpoint);
