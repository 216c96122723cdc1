/**
 * Deliberately broken variants of `vgpu`: they prove that the verifier can see (`--inject`).
 */
import { type Iova, PAGE_SIZE } from '../../memory/address.ts';
import { Engine } from './engine/engine.ts';
import type { ShadowEntry } from './mmu/shadow-entries.ts';
import { ShadowPageTable } from './mmu/shadow-page-table.ts';
import { VRAM_PFN } from './mmu/vram.ts';
import { DEFAULT_PARTS, type VgpuParts } from './vgpu.ts';

/** Commands that a crashing device completes first, so that it dies under load. */
const COMMANDS_BEFORE_CRASH = 12;

/** Unpins as told, but goes on using the translation. */
class StaleShadow extends ShadowPageTable {
  readonly #unpinned = new Set<ShadowEntry>();

  override dropIova(iova: Iova, size: number): void {
    for (const entry of this.entries.values()) {
      if (
        entry.pfn >= VRAM_PFN ||
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

/** Ignores every request to unpin. */
class StubbornShadow extends ShadowPageTable {
  override dropIova(): void {}
}

/** Ends its thread with half a command's bytes written and its pins held. */
class CrashingEngine extends Engine {
  protected override beforePiece(done: number): void {
    if (done > 0 && this.counters.commands >= COMMANDS_BEFORE_CRASH) process.exit(1);
  }
}

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
    engine: (place, events) => new CrashingEngine(place, events),
  },
};
