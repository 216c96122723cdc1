/**
 * Entry of a guest worker: loads the scenario's script and runs it as the VM's driver, behind a Comlink proxy.
 */
import { type MessagePort, workerData } from 'node:worker_threads';
import * as Comlink from 'comlink';
import { every, yieldToOthers } from '#host';
import { GuestVm } from '../src/guest/guest-vm.ts';
import type { GuestApi, GuestReport, GuestTask, VmControl } from '../src/guest/protocol.ts';
import { importScenario } from '../src/scenario/load.ts';
import { errorText } from './error-text.ts';

const PROGRESS_INTERVAL_MS = 250;

const { task, port } = workerData as { task: GuestTask; port: MessagePort };

yieldToOthers();

const api: GuestApi = {
  async run(control: VmControl): Promise<GuestReport> {
    const vm = new GuestVm(task, control);
    const stop = every(PROGRESS_INTERVAL_MS, () => void vm.progress());
    try {
      const { guest } = await importScenario(task.scenario);
      for (const gpu of vm.gpus) await vm.startGpu(gpu);
      for (const device of vm.devices) await vm.startDevice(device);
      await guest(vm);
      return vm.report('');
    } catch (error) {
      return vm.report(errorText(error, task.scenario));
    } finally {
      stop();
    }
  },
};

Comlink.expose(api, port as unknown as Comlink.Endpoint);
