/**
 * Entry of a guest worker: loads the scenario's script and runs it as the VM's guest. Called through Comlink.
 */
import { type MessagePort, workerData } from 'node:worker_threads';
import * as Comlink from 'comlink';
import { yieldToOthers } from '#host';
import { GuestVm } from '../src/guest/guest-vm.ts';
import { VmMovedError } from '../src/guest/migration.ts';
import type { GuestApi, GuestReport, GuestSnapshot, GuestTask, VmControl } from '../src/guest/protocol.ts';
import { importScenario } from '../src/scenario/load.ts';
import { boundOutput } from './bound-output.ts';
import { errorText } from './error-text.ts';

const { task, port } = workerData as { task: GuestTask; port: MessagePort };

yieldToOthers();
boundOutput();

/** The VM of the running script. */
let vm: GuestVm | undefined;

const api: GuestApi = {
  async load(): Promise<void> {
    await importScenario(task.scenario).catch(() => {}); // run() reports the error
  },

  async run(control: VmControl, snapshot?: GuestSnapshot): Promise<GuestReport> {
    const guest = new GuestVm({ ...task, snapshot }, control);
    vm = guest;
    try {
      await (snapshot ? resumeScript(guest, control, snapshot) : startScript(guest));
      return guest.report('');
    } catch (error) {
      return guest.report(error instanceof VmMovedError ? '' : errorText(error, task.scenario));
    }
  },

  report: () => vm?.report('') ?? { histograms: [], deviceHistograms: [], error: '' },
};

async function startScript(vm: GuestVm): Promise<void> {
  const { guest, resume } = await importScenario(task.scenario);
  vm.migratable = resume !== undefined;
  for (const gpu of vm.gpus) await vm.startGpu(gpu);
  for (const device of vm.devices) await vm.startDevice(device);
  await guest(vm);
}

async function resumeScript(vm: GuestVm, control: VmControl, { script }: GuestSnapshot): Promise<void> {
  const { resume } = await importScenario(task.scenario);
  if (!resume) throw new Error('the scenario has no resume(vm, state)');
  vm.migratable = true;
  await control.resumed();
  for (const { driver } of vm.gpus) driver.resume();
  await resume(vm, script);
}

Comlink.expose(api, port as unknown as Comlink.Endpoint);
