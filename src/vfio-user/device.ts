/**
 * A device as the protocol sees it: regions, interrupts, DMA maps, migration. The server (server.ts) knows nothing else.
 */
import type { Completion } from '../platform/completion.ts';
import type { ClientMemory } from './client-memory.ts';
import type { DirtyLog } from './dirty-log.ts';
import type { DmaSpace } from './dma-space.ts';
import type { IrqSet } from './irqs.ts';
import type { MapRecorder } from './map-recorder.ts';

/** A part of a region that the client may map. */
interface MappableArea {
  readonly offset: number;
  readonly size: number;
}

/** A region of a device. An absent one has size 0 and no flags. */
export interface ServedRegion {
  readonly size: number;
  readonly flags: number;
  /** A file with the region's bytes, and the parts of it that the client may map. */
  readonly shared?: { readonly fd: number; readonly areas: readonly MappableArea[] } | undefined;
}

/** A piece of a migration stream. */
export interface MigrationPort {
  /** False for a device that cannot be migrated. */
  readonly supported: boolean;
  readonly state: number;
  /** @throws VfioError */
  setState(state: number): void;
  /** Returns at most `maxBytes`; fewer at the end. @throws VfioError */
  read(maxBytes: number): Uint8Array;
  /** @throws VfioError */
  write(bytes: Uint8Array): void;
}

/** A device behind a server. */
export interface VfioDevice {
  readonly dma: DmaSpace;
  readonly irqs: IrqSet;
  readonly client: ClientMemory;
  readonly log: DirtyLog;
  readonly migration: MigrationPort;
  /** Recorder of the client's maps, if they are recorded. */
  readonly recorder?: MapRecorder | undefined;
  /** Returns a region by its index, 0 to REGIONS - 1. */
  region(index: number): ServedRegion;
  /** Reads a range that lies within the region. */
  read(index: number, offset: number, target: Uint8Array): void;
  /** Writes a range that lies within the region. */
  write(index: number, offset: number, source: Uint8Array): void;
  reset(): void;
  /** The client has gone: removes its maps and event counters. The device keeps its state. */
  disconnected(): Completion;
}
