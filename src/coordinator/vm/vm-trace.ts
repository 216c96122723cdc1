/**
 * A VM's trace: frames that the coordinator itself writes, such as violations and phases of the guest.
 */
import { wallMs } from '#host';
import { encodeFrame, type FrameHeader, type FrameKind } from '../../proto/codec.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import type { VmConfig, VmContext } from './config.ts';
import type { VmVerdict } from './verdict.ts';

/** Device number of a frame that concerns the whole VM. */
export const NO_DEVICE = -1;

export class VmTrace {
  readonly #config: VmConfig;
  readonly #context: VmContext;
  readonly #verdict: VmVerdict;

  constructor(config: VmConfig, context: VmContext, verdict: VmVerdict) {
    this.#config = config;
    this.#context = context;
    this.#verdict = verdict;
  }

  /** Returns the header of a frame of this VM, sent now. */
  header(device: number): FrameHeader {
    const { process, vm } = this.#config;
    return { timeUs: wallMs() * 1000, process, vm, device };
  }

  record<K extends FrameKind>(kind: K, device: number, body: FrameBodies[K]): void {
    this.#context.trace(encodeFrame(this.header(device), kind, body));
  }

  /** Adds a violation to the verdict and records it. */
  violation(device: number, kind: string, detail: string): void {
    this.#verdict.violation(kind, detail);
    this.record('violation', device, { kind, detail, repeats: 0 });
  }
}
