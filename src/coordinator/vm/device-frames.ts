/**
 * Control frames from a VM's devices to the coordinator.
 */
import { hex } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import { decodeFrame, type Frame } from '../../proto/codec.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import { isInterruptAddress } from '../../viommu/interrupt-range.ts';
import type { VIommu } from '../../viommu/viommu.ts';
import type { VmContext } from './config.ts';
import type { VmDevice } from './device.ts';
import { faultRecord } from './dma-fault.ts';
import type { VmVerdict } from './verdict.ts';
import type { VmTrace } from './vm-trace.ts';

/** Maximum count of frames served per turn, so that one device cannot starve the others. */
const BURST = 64;

/** The parts of a VM that its devices' frames concern. */
interface FramesOwner {
  readonly context: VmContext;
  readonly verdict: VmVerdict;
  readonly iommu: VIommu;
  readonly ram: GuestRam;
  /** Called when a device is ready. */
  ready(device: VmDevice): void;
  /** Quarantines a device. Never rejects. */
  quarantine(device: VmDevice, kind: string, detail: string): Promise<void>;
}

export class DeviceFrames {
  readonly #owner: FramesOwner;
  readonly #trace: VmTrace;
  /** Reasons for which messages of a device have been blocked. */
  readonly #blockedFor = new Map<VmDevice, Set<number>>();

  constructor(owner: FramesOwner, trace: VmTrace) {
    this.#owner = owner;
    this.#trace = trace;
  }

  /** Serves the frames of one device. */
  serve(device: VmDevice): void {
    if (device.failure !== '') return;
    const { context } = this.#owner;
    this.#remapMessages(device);
    try {
      for (let served = 0; served < BURST; served++) {
        const bytes = device.link.fromDevice.shift();
        if (!bytes) return;
        context.trace(bytes);
        this.#handle(device, decodeFrame(bytes));
      }
      context.reschedule(context.firstBit + 1 + device.index);
    } catch (error) {
      // Garbage in a device's ring must fail only that device, not the coordinator or the others.
      const detail = error instanceof Error ? error.message : String(error);
      void this.#owner.quarantine(device, 'bad-frame', `sent garbage (${detail})`);
    }
  }

  /**
   * Passes a device's interrupt messages through the vIOMMU. An address outside the interrupt range is no interrupt.
   */
  #remapMessages(device: VmDevice): void {
    const { link, requesterId } = device;
    const { iommu } = this.#owner;
    let isRaised = false;
    link.takeMessages((vector, { address, data }, count) => {
      const answer = isInterruptAddress(address)
        ? iommu.remapInterrupt?.(requesterId, address, data)
        : undefined;
      if (answer?.kind === 'blocked') this.#logBlocked(device, address, answer);
      if (answer?.kind !== 'delivered') return;
      link.countInterrupts(vector, count);
      isRaised = true;
    });
    if (isRaised) link.wakeGuest();
  }

  /** Logs the first message of a device that is blocked for a reason: its driver would wait for it in vain. */
  #logBlocked(
    device: VmDevice,
    address: number,
    { reason, text }: { readonly reason: number; readonly text: string },
  ): void {
    const reasons = this.#blockedFor.get(device) ?? new Set();
    this.#blockedFor.set(device, reasons);
    if (reasons.has(reason)) return;
    reasons.add(reason);
    device.addLog({ text: `interrupt message to ${hex(address)} is blocked: ${text}`, watchdog: true });
  }

  #handle(device: VmDevice, frame: Frame): void {
    const { verdict } = this.#owner;
    if (frame.kind === 'deviceReady') {
      device.run?.ready(frame.body.threadId);
      this.#owner.ready(device);
    } else if (frame.kind === 'dmaFault') this.#fault(device, frame.body);
    else if (frame.kind === 'violation')
      verdict.violation(frame.body.kind, `${device.name} ${frame.body.detail}`, frame.body.repeats);
    else if (frame.kind === 'deviceReport') device.report = frame.body;
    else if (frame.kind === 'deviceLog') device.addLog(frame.body);
    else device.control.answered(frame);
  }

  #fault(device: VmDevice, body: FrameBodies['dmaFault']): void {
    const record = faultRecord(this.#owner, device.space, body);
    device.link.acknowledgeFault();
    const expected = this.#owner.verdict.fault(device.index, record);
    this.#trace.record('faultRecorded', device.index, { ...record, expected });
  }
}
