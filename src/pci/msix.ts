/**
 * MSI-X logic (PCI Local Bus Specification 3.0 §6.8.2). A masked vector that is raised becomes pending and is delivered
 * when software unmasks it. All state is in registers: the vector table, the pending bits and Message Control.
 */

import type { RegisterFile } from '../registers/register-file.ts';
import type { ConfigSpace, MsiMessage, VectorGate } from './config-space.ts';
import {
  MSIX_ENABLE,
  MSIX_FUNCTION_MASK,
  MSIX_PENDING_NAME,
  MSIX_VECTOR_MASKED,
  msixControlName,
} from './msix-format.ts';

/** MSI-X capability of a function: its table and pending bits. */
export class Msix implements VectorGate {
  readonly #config: ConfigSpace;
  readonly #registers: RegisterFile<string>;
  /** Names of the vectors' control words. */
  readonly #controls: readonly string[];
  readonly #deliver: (vector: number) => void;

  /**
   * `registers` are those of the BAR and include msixRegisters. `deliver` raises a pending vector, which comes back
   * here through {@link raise}.
   */
  constructor(
    config: ConfigSpace,
    registers: RegisterFile<string>,
    vectors: number,
    deliver: (vector: number) => void,
  ) {
    this.#config = config;
    this.#registers = registers;
    this.#controls = Array.from({ length: vectors }, (_, vector) => msixControlName(vector));
    this.#deliver = deliver;
    for (const [vector, name] of this.#controls.entries())
      registers.onWrite(name, () => this.#deliverPending(vector));
    config.registers.onWrite('MsixControl', () => {
      for (let vector = 0; vector < vectors; vector++) this.#deliverPending(vector);
    });
    config.useMsix(this);
  }

  raise(vector: number): number | undefined {
    if (vector >= this.#controls.length) return undefined;
    if (!this.#isMasked(vector)) return vector;
    this.#setPending(vector, true);
    return undefined;
  }

  message(vector: number): MsiMessage {
    const word = (name: string) => this.#registers.get32(`MsixVector${vector}${name}`);
    return { address: word('UpperAddress') * 2 ** 32 + word('Address'), data: word('Data') };
  }

  /** Clears the pending bit of a vector whose cause has ended. */
  withdraw(vector: number): void {
    this.#setPending(vector, false);
  }

  #isMasked(vector: number): boolean {
    const all = (this.#config.registers.get32('MsixControl') & MSIX_FUNCTION_MASK) !== 0;
    return all || (this.#registers.get32(this.#controls[vector] as string) & MSIX_VECTOR_MASKED) !== 0;
  }

  #deliverPending(vector: number): void {
    const enabled = (this.#config.registers.get32('MsixControl') & MSIX_ENABLE) !== 0;
    const isPending = ((this.#registers.get(MSIX_PENDING_NAME) >> BigInt(vector)) & 1n) === 1n;
    if (!enabled || !isPending || this.#isMasked(vector)) return;
    this.#setPending(vector, false);
    this.#deliver(vector);
  }

  #setPending(vector: number, pending: boolean): void {
    const bit = 1n << BigInt(vector);
    const bits = this.#registers.get(MSIX_PENDING_NAME);
    this.#registers.set(MSIX_PENDING_NAME, pending ? bits | bit : bits & ~bit);
  }
}
