/**
 * Coverage of interleavings: the pairs of sites that conflict, and the orders in which they were seen.
 *
 * A pair is two accesses of different threads to one word, one right after the other, of which one changes the word. A pair
 * that was seen in one order only is either ordered by the protocol, or not explored enough.
 */
import type { ModelThread, RunView, Strategy } from './model/run.ts';
import { changes, STEP_NAMES, type Step } from './model/step.ts';

interface Access {
  readonly thread: number;
  readonly site: string;
  readonly changed: boolean;
}

/** Pairs of sites, counted over schedules. */
export class Coverage {
  /** Count of each ordered pair, as `first → second`. */
  readonly #orders = new Map<string, number>();
  #last = new Map<number, Access>();

  /** Starts a schedule. */
  begin(): void {
    this.#last = new Map();
  }

  note(step: Step, thread: number): void {
    const { lo, hi } = step;
    const site = `${step.site} ${STEP_NAMES[step.kind]}`;
    if (hi - lo !== 1) return;
    const changed = changes(step);
    const before = this.#last.get(lo);
    if (before && before.thread !== thread && (before.changed || changed)) {
      const order = `${before.site} → ${site}`;
      this.#orders.set(order, (this.#orders.get(order) ?? 0) + 1);
    }
    this.#last.set(lo, { thread, site, changed });
  }

  /** Count of pairs, whatever their order. */
  get pairs(): number {
    return this.#both().length + this.oneOrder.length;
  }

  /** Pairs that were seen in one order only, sorted. */
  get oneOrder(): string[] {
    return [...this.#orders.keys()].filter((order) => !this.#orders.has(reversed(order))).sort();
  }

  #both(): string[] {
    return [...this.#orders.keys()].filter(
      (order) => this.#orders.has(reversed(order)) && order <= reversed(order),
    );
  }
}

const reversed = (order: string): string => order.split(' → ').reverse().join(' → ');

/** Returns the strategy, with its steps noted. */
export const observed = (strategy: Strategy, coverage: Coverage): Strategy => ({
  begin: (threads: readonly ModelThread[]) => {
    coverage.begin();
    strategy.begin(threads);
  },
  pick: (view: RunView) => strategy.pick(view),
  pickValue: (count: number) => strategy.pickValue(count),
  performed: (step: Step, thread: number, view: RunView) => {
    coverage.note(step, thread);
    strategy.performed?.(step, thread, view);
  },
  end: (view: RunView) => strategy.end(view),
});
