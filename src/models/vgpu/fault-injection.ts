/**
 * Fault injection (`--inject`): variants of `vgpu` with one deliberate fault each. A run with one of them must fail, which
 * shows that the verifier detects the fault.
 */
import { type Iova, PAGE_SIZE } from '../../memory/address.ts';
import { Engine } from './engine/engine.ts';
import type { ShadowEntry } from './mmu/shadow-entries.ts';
import { ShadowPageTable } from './mmu/shadow-page-table.ts';
import { DEFAULT_PARTS, type VgpuParts } from './vgpu.ts';

/** Commands that a crashing device completes first, so that it crashes under load. */
const COMMANDS_BEFORE_CRASH = 12;

/** Unpins as requested, but keeps using the translation. */
class StaleShadow extends ShadowPageTable {
  readonly #unpinned = new Set<ShadowEntry>();

  override dropIova(iova: Iova, size: number): void {
    for (const entry of this.entries.values()) {
      if (
        entry.memory === 'vram' ||
        entry.iova < iova ||
        entry.iova + PAGE_SIZE > iova + size ||
        this.#unpinned.has(entry)
      )
        continue;
      this.#unpinned.add(entry);
      this.dma.unpin(entry.iova);
    }
  }

  protected override drop(entry: ShadowEntry): void {
    if (this.#unpinned.delete(entry)) this.forget(entry);
    else super.drop(entry);
  }
}

/** Ignores every unmap request and keeps its pins. */
class StubbornShadow extends ShadowPageTable {
  override dropIova(): void {}
}

/** Ends its worker thread with a command half done and pins held. */
class CrashingEngine extends Engine {
  protected override beforePiece(done: number): void {
    if (done > 0 && this.counters.commands >= COMMANDS_BEFORE_CRASH) process.exit(1);
  }
}

/** The parts of each faulty variant, by the fault's name. */
export const INJECTED_FAULTS: Readonly<Record<string, VgpuParts>> = {
  'stale-translation': {
    ...DEFAULT_PARTS,
    shadow: (context, source, vram) => new StaleShadow(context.dma, source, vram.size),
  },
  'never-unpin': {
    ...DEFAULT_PARTS,
    shadow: (context, source, vram) => new StubbornShadow(context.dma, source, vram.size),
  },
  'worker-crash': {
    ...DEFAULT_PARTS,
    engine: (context, events) => new CrashingEngine(context, events),
  },
};
