/**
 * Entry of a guest worker: loads the scenario's script and runs it as the VM's driver, behind a Comlink proxy.
 */
import { fileURLToPath } from 'node:url';
import { type MessagePort, workerData } from 'node:worker_threads';
import * as Comlink from 'comlink';
import { every, yieldToOthers } from '#host';
import { GuestVm } from '../src/guest/guest-vm.ts';
import type { GuestApi, GuestReport, GuestTask, VmControl } from '../src/guest/protocol.ts';
import { importScenario } from '../src/scenario/load.ts';

const PROGRESS_INTERVAL_MS = 250;

const { task, port } = workerData as { task: GuestTask; port: MessagePort };

/** Message and, if it can be told, the line of the scenario that threw. */
function errorText(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const file = fileURLToPath(task.scenario);
  const place = error.stack?.split('\n').find((line) => line.includes(file));
  const at = place ? ` (${place.trim().replace('file://', '')})` : '';
  return `${error.name}: ${error.message.split('\n')[0]}${at}`;
}

yieldToOthers();

const api: GuestApi = {
  async run(control: VmControl): Promise<GuestReport> {
    const vm = new GuestVm(task, control);
    const stop = every(PROGRESS_INTERVAL_MS, () => void vm.progress());
    try {
      const { guest } = await importScenario(task.scenario);
      for (const gpu of vm.gpus) await vm.startGpu(gpu);
      await guest(vm);
      return vm.report('');
    } catch (error) {
      return vm.report(errorText(error));
    } finally {
      stop();
    }
  },
};

Comlink.expose(api, port as unknown as Comlink.Endpoint);
