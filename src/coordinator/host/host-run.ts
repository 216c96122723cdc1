/**
 * The running VMs of one host process: its own, and those that arrive from other hosts.
 */
import { every, nowUs, sleep, wallMs } from '#host';
import type { FrameSocket } from '../../channel/frame-socket.ts';
import { MigrationError } from '../../guest/migration-settings.ts';
import type { Frame, FrameHeader } from '../../proto/codec.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import { boundedText } from '../../report/text.ts';
import { Coordinator, type Migrations } from '../coordinator.ts';
import type { GpuRunSettings } from '../gpu-pool.ts';
import type { ArrivedVm, VmConfig } from '../vm/config.ts';
import { HostSocket } from '../vm/migration/host-socket.ts';
import { Incoming } from '../vm/migration/incoming.ts';
import { lostResult } from '../vm/result.ts';
import type { Vm } from '../vm/vm.ts';
import { deviceEntry, guestEntry } from '../workers/entries.ts';
import { DEFAULT_MODEL } from '../workers/supervisor.ts';
import type { Encode, HostChannel, Send } from './host-channel.ts';
import { SAMPLE_MS, Samples } from './samples.ts';
import { arrivalConfig, vmConfig } from './vm-configs.ts';
import { VmLife } from './vm-life.ts';

type RunRequest = FrameBodies['runRequest'];

const PROGRESS_INTERVAL_MS = 250;
/** Reports of progress for each sample of the devices. */
const SAMPLE_EVERY = SAMPLE_MS / PROGRESS_INTERVAL_MS;

export class HostRun {
  readonly coordinator: Coordinator;
  readonly #request: RunRequest;
  readonly #send: Send;
  readonly #hostSocket: HostSocket | undefined;
  /** One promise per VM that runs here; it resolves when the VM's result has been sent. */
  readonly #running = new Set<Promise<void>>();
  #done = 0;
  #runEnd: () => void = () => {};
  readonly #runEnded: Promise<void>;
  #onLoadStart: (startUs: number) => void = () => {};
  /** Resolves to the start of the run's clock. */
  readonly #loadStarted: Promise<number> = new Promise((resolve) => {
    this.#onLoadStart = resolve;
  });
  readonly #samples: Samples = new Samples((...frame) => this.#send(...frame));
  /** True while the channel has not taken the last report of progress. */
  #isLate = false;
  #isLoadStopped = false;
  #isAborted = false;
  #onAborted: () => void = () => {};
  readonly #aborted: Promise<void>;
  #stopProgress = () => {};
  /** VMs that are closed: their last samples have been sent. */
  readonly #ended = new WeakSet<ArrivedVm>();
  /** Lives of the VMs that are here, by number. */
  readonly #lives = new Map<number, VmLife>();
  /** Count of reports of progress. */
  #reports = 0;

  constructor(request: RunRequest, frame: Encode, channel: HostChannel) {
    this.#request = request;
    const { migrations } = request;
    this.#hostSocket = migrations && new HostSocket(request.process, migrations.sockets);
    this.coordinator = new Coordinator({
      vms: request.vms.map((vm) => vmConfig(request, vm)),
      workers: { device: deviceEntry(request.device?.model ?? DEFAULT_MODEL), guest: guestEntry() },
      trace: request.trace,
      gpus: request.gpu as GpuRunSettings | undefined,
      load: {
        booted: (vm) => {
          if (!channel.listen) return Promise.resolve(nowUs());
          this.#lives.get(vm)?.booted();
          this.#send('vmBooted', vm, {});
          return this.#loadStarted;
        },
        started: this.#loadStarted,
        // The VM has recorded it in the trace.
        phase: (vm, name) => channel.send(frame('guestPhase', vm, { name })),
        metrics: (vm, message) => this.#send('vmMetrics', vm, message),
      },
      migrations: this.#migrations(),
    });
    // The trace also records the frames between the processes.
    this.#send = (kind, vm, body, device) => {
      const bytes = frame(kind, vm, body, device);
      this.coordinator.trace(bytes);
      return channel.send(bytes);
    };
    this.#runEnded = new Promise((resolve) => {
      this.#runEnd = resolve;
    });
    this.#aborted = new Promise((resolve) => {
      this.#onAborted = resolve;
    });
    this.coordinator.trace(frame('runRequest', 0, withoutSource(request)));
  }

  /** Handles a frame from the CLI. */
  onFrame(bytes: Uint8Array, frame: Frame): void {
    this.coordinator.trace(bytes);
    if (frame.kind === 'deviceRequest') this.#release(frame.header, frame.body.uuid);
    else if (frame.kind === 'runEnd') this.#runEnd();
    else if (frame.kind === 'loadStart') this.#startClock(nowUs() + frame.body.startUs - wallMs() * 1000);
    else if (frame.kind === 'vmAct') this.#act(frame.header.vm, frame.body);
    else if (frame.kind === 'screenshotRequest') void this.#takeScreenshot(frame.header, frame.body.id);
    else if (frame.kind === 'loadStop') {
      this.#isLoadStopped = true;
      for (const vm of this.coordinator.vms) vm.stopLoad();
      for (const life of this.#lives.values()) life.end();
    }
  }

  /** Starts serving and all devices; resolves when each device is ready or has failed. */
  async start(): Promise<void> {
    this.#stopProgress = every(PROGRESS_INTERVAL_MS, () => this.#sendProgress());
    this.coordinator.start();
    await this.#listen();
    await Promise.race([this.coordinator.startDevices(), this.#aborted]);
  }

  /** Listens for VMs from other hosts. If that fails, no VM can arrive, and those of this host run nevertheless. */
  async #listen(): Promise<void> {
    const { process } = this.#request;
    const failed = (error: Error) => this.#report(error);
    await this.#hostSocket
      ?.listen({
        header: (device) => ({ timeUs: wallMs() * 1000, process, vm: 0, device }),
        sent: (frame) => this.coordinator.trace(frame),
        serve: (socket) => this.#arrive(socket),
        failed,
      })
      .catch(failed);
  }

  /** Interrupts the run: ends the guests, also those that arrive later; their VMs' results have what was done. */
  abort(): void {
    this.#isAborted = true;
    for (const vm of this.coordinator.vms) vm.interrupt();
    for (const life of this.#lives.values()) life.end();
    this.#onAborted();
  }

  /** Runs the guests until they end; with migrations, also until the CLI reports that no more VMs will arrive. */
  async runAll(): Promise<void> {
    for (const { config, reason } of this.coordinator.unbuilt)
      this.#send('vmResult', config.vm, lostResult(reason));
    for (const vm of this.coordinator.own) this.#track(vm, this.#run(vm));
    if (this.#hostSocket) await this.#runEnded;
    while (this.#running.size > 0) await Promise.all(this.#running);
    this.#hostSocket?.close();
    this.#stopProgress();
  }

  /** Boots a VM and runs its guest, until all of it is closed. @param bootsAgain true if it has been closed before */
  async #run(vm: Vm, bootsAgain = false): Promise<FrameBodies['vmResult']> {
    const { bootUs } = vm.config;
    if (bootUs > 0 || bootsAgain) {
      const boots = this.#loadStarted.then((startUs) => sleep((startUs + bootUs - nowUs()) / 1000));
      await Promise.race([boots, this.#aborted]);
      const started = vm.startDevices().catch((error: unknown) => vm.lose(error));
      if (!this.#isAborted) await Promise.race([started, this.#aborted]);
    }
    return vm.runGuest();
  }

  #migrations(): Migrations | undefined {
    const { migrations } = this.#request;
    if (!this.#hostSocket || !migrations) return undefined;
    return {
      hostSocket: this.#hostSocket,
      // Twice the run's size: a VM may return while its former devices here are still being removed.
      capacity: { vms: 2 * migrations.vmsMax, devices: 2 * migrations.devicesMax },
      arrived: (vm, result) => {
        this.#send('vmArrived', vm.config.vm, {});
        this.#track(vm as Vm, result);
        this.#lives.get(vm.config.vm)?.booted();
        if (this.#isLoadStopped) vm.stopLoad();
        if (this.#isAborted) vm.interrupt();
      },
    };
  }

  /** Loses all VMs because of an error that belongs to none of them. Their results have what was done. */
  fail(error: unknown): void {
    this.#report(error);
    for (const vm of this.coordinator.vms) vm.lose(error);
  }

  /** Writes an error that concerns no VM of this host to the terminal. */
  #report(error: unknown): void {
    const text = error instanceof Error ? error.message : String(error);
    process.stderr.write(`host process ${this.#request.process}: ${text}\n`);
  }

  /** Follows a VM over its lives here. Sends its result when it ends, and removes it. @param running its first life */
  #track(vm: Vm, running: Promise<FrameBodies['vmResult']>): void {
    const number = vm.config.vm;
    const life = new VmLife(vm, {
      build: (config) => this.coordinator.addVm(config),
      run: (next) => this.#run(next, true),
      closed: (each) => {
        this.#sendSample(each, true);
        this.#ended.add(each);
      },
      remove: (each) => this.coordinator.removeVm(each),
    });
    this.#lives.set(number, life);
    const sent = life
      .run(running)
      .then((body) => {
        if (!body.moved) this.#done++;
        this.#send('vmResult', number, body);
        if (this.#hostSocket) this.coordinator.removeVm(life.vm);
      })
      .catch((error: Error) => this.#send('vmResult', number, lostResult(error.message)))
      .catch((error: unknown) => this.#report(error))
      .finally(() => this.#running.delete(sent));
    this.#running.add(sent);
  }

  #arrive(socket: FrameSocket): Promise<void> {
    const host = {
      prepare: async (config: string) => {
        const vm = this.coordinator.addVm(this.#arrivalConfig(config));
        try {
          await Promise.all([vm.startDevices(), vm.loadGuest()]);
          const failed = vm.devices.find(({ failure, loss }) => failure !== '' && loss !== 'earlier');
          if (failed) throw new MigrationError(`${failed.name} ${failed.failure}`);
          return vm;
        } catch (error) {
          await host.discard(vm);
          throw error;
        }
      },
      discard: async (vm: Vm) => {
        await vm.discard();
        this.coordinator.removeVm(vm);
      },
    };
    return new Incoming(socket, host).serve();
  }

  /** @throws SyntaxError, MigrationError */
  #arrivalConfig(json: string): VmConfig {
    const config = JSON.parse(json) as VmConfig;
    if (config.process !== this.#request.process)
      throw new MigrationError(`a VM for host ${config.process} arrived at host ${this.#request.process}`);
    return arrivalConfig(config, this.#request);
  }

  /**
   * Has a VM close a device that is being removed from the host, and reports when it has. A VM that is not here is on its
   * way to another host, which then gets the request.
   */
  #release({ vm: number, device }: FrameHeader, uuid: string): void {
    const vm = this.coordinator.vms.find(({ config, isHere }) => config.vm === number && isHere);
    vm?.release(device, uuid)
      .then((released) => {
        if (released) this.#send('deviceReleased', number, {}, device);
      })
      .catch((error: unknown) => vm.lose(error));
  }

  /** Acts on a VM under declared load, and reports how that has ended. */
  #act(number: number, body: FrameBodies['vmAct']): void {
    const acted = this.#lives.get(number)?.act(body) ?? Promise.resolve('the VM is not at this host');
    acted
      .catch((error: Error) => boundedText(error.message))
      .then((error) => this.#send('vmActDone', number, { event: body.event, error }))
      .catch((error: unknown) => this.#report(error));
  }

  /** Takes a picture of a device and sends it, or the reason why it is missing. */
  async #takeScreenshot({ vm: number, device }: FrameHeader, id: number): Promise<void> {
    try {
      const vm = this.coordinator.vms.find(({ config, isHere }) => config.vm === number && isHere);
      const png = await vm?.screenshot(device);
      this.#send('screenshot', number, {
        id,
        png: png ?? new Uint8Array(),
        error: png ? '' : this.#absence(number),
      });
    } catch (error) {
      this.#send('screenshot', number, {
        id,
        png: new Uint8Array(),
        error: boundedText((error as Error).message),
      });
    }
  }

  #absence(number: number): string {
    const vm = this.coordinator.vms.find(({ config }) => config.vm === number);
    return `the VM ${vm ? 'is ending' : 'is not at this host'}; accepted: a running VM`;
  }

  #sendProgress(): void {
    // While the CLI is late, nothing adds up in the channel: samples cover the time since the last one.
    if (this.#isLate) return;
    this.#isLate = true;
    try {
      const sent = this.#send('progress', 0, this.#progress());
      Promise.resolve(sent).then(() => {
        this.#isLate = false;
      });
      if (++this.#reports % SAMPLE_EVERY === 0) for (const vm of this.coordinator.vms) this.#sendSample(vm);
    } catch (error) {
      this.#isLate = false;
      this.#report(error);
    }
  }

  #startClock(startUs: number): void {
    this.#samples.start(startUs, this.coordinator.vms);
    this.#onLoadStart(startUs);
  }

  #sendSample(vm: ArrivedVm, isLast = false): void {
    if (!this.#ended.has(vm)) this.#samples.send(vm, isLast);
  }

  #progress(): FrameBodies['progress'] {
    const all = this.coordinator.vms.map((vm) => vm.progress);
    const devices = this.coordinator.vms.flatMap((vm) => vm.devices);
    return {
      devicesReady: devices.filter((device) => device.alive && device.isReady).length,
      vmsDone: this.#done,
      operations: all.reduce((total, vm) => total + vm.operations, 0),
      bytesVerified: all.reduce((total, vm) => total + vm.bytesVerified, 0),
      phase: all.at(-1)?.phase ?? '',
    };
  }
}

/** Returns the request without the model's text, which is in its file and not needed in a trace. */
const withoutSource = (request: RunRequest): RunRequest =>
  request.device ? { ...request, device: { ...request.device, source: '' } } : request;
