/**
 * The parts of a VT-d unit that have its registers in common, built and joined in one place.
 */
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { Quirks } from '../quirks.ts';
import { AttachedDevices, type Resolution } from './attached-devices.ts';
import { ContextLookup } from './context-lookup.ts';
import { CompletionEvent, FaultLog, type RaiseMsi } from './faults.ts';
import { InterruptRemapping } from './interrupt-remapping.ts';
import { InvalidationQueue, type InvalidationQueueEvents } from './invalidation-queue.ts';
import type { OnWalked } from './page-tables.ts';
import { createRegisters, type IntelCapabilities, type VtdRegisterFile } from './registers.ts';

export interface VtdPartsOptions extends IntelCapabilities {
  readonly ram: GuestRam;
  /** Default `spec`. */
  readonly quirks?: Quirks;
  /** Sends the unit's own interrupts: fault and invalidation completion. */
  readonly raiseMsi?: RaiseMsi;
}

/** Calls of the parts into their unit. */
export interface VtdPartsOwner extends Pick<InvalidationQueueEvents, 'apply' | 'pause'> {
  readonly walked: OnWalked;
  /** Reads a device's context entry now. */
  readonly resolve: (requesterId: number) => Resolution;
  /** Software has cleared an error: the queue may have descriptors to fetch. */
  readonly scheduleQueue: () => void;
}

export interface VtdParts {
  readonly capabilities: IntelCapabilities;
  readonly quirks: Quirks;
  readonly registers: VtdRegisterFile;
  readonly contexts: ContextLookup;
  readonly faults: FaultLog;
  readonly queue: InvalidationQueue;
  readonly devices: AttachedDevices;
  readonly interrupts: InterruptRemapping;
}

export function createParts(options: VtdPartsOptions, owner: VtdPartsOwner): VtdParts {
  const { ram, quirks = 'spec', raiseMsi = () => {} } = options;
  const registers = createRegisters(options, quirks);
  const contexts = new ContextLookup(ram, options, quirks, owner.walked);
  const faults = new FaultLog(registers, quirks, raiseMsi, () => {
    // QEMU fetches again only at the next write of the tail.
    if (quirks === 'spec') owner.scheduleQueue();
  });
  const interrupts = new InterruptRemapping(ram, faults, quirks, options);
  const completion = new CompletionEvent(registers, raiseMsi);
  const queue = new InvalidationQueue(ram, registers, quirks, {
    apply: owner.apply,
    pause: owner.pause,
    waitInterrupt: () => completion.signal(),
    error: () => faults.invalidationQueueError(),
  });
  const devices = new AttachedDevices(owner.resolve, () => quirks === 'spec' && !contexts.scalable);
  return { capabilities: options, quirks, registers, contexts, faults, queue, devices, interrupts };
}
