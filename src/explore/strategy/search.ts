/**
 * Exhaustive searches: depth first, each schedule executed from its start.
 *
 * - `bounded`: all schedules with at most N preemptions. A preemption takes the turn from a thread that could continue.
 *   The bounds 0 to N are searched one after the other, so the first failure has the fewest preemptions.
 * - `dfs`: all schedules, without those that sleep sets (Godefroid 1996) show to be equal up to the order of steps that do
 *   not conflict. The two are not combined, because a bound may cut the representative of a sleep set.
 */

import type { RunView, Strategy } from '../model/run.ts';
import { conflict, type Step, StepKind } from '../model/step.ts';

interface Node {
  /** Alternatives: thread indices, or indices of a load's values. */
  readonly alternatives: readonly number[];
  at: number;
  /** Threads whose next step needs no exploration here, with that step. */
  sleep: Map<number, Step>;
  /** The steps that the alternatives perform. */
  readonly steps: ReadonlyMap<number, Step> | undefined;
}

/** Thrown out of a schedule whose continuations have all been explored. */
export class PrunedError extends Error {
  override name = 'PrunedError';
}

export class Search implements Strategy {
  readonly #bound: number;
  readonly #sleepSets: boolean;
  readonly #nodes: Node[] = [];
  #depth = 0;
  #preemptions = 0;
  #limit: number;
  #cut = false;
  #sleep = new Map<number, Step>();

  /** Searches with at most `bound` preemptions; Infinity for all schedules, with sleep sets. */
  constructor(bound: number) {
    this.#bound = bound;
    this.#sleepSets = bound === Number.POSITIVE_INFINITY;
    this.#limit = this.#sleepSets ? bound : 0;
  }

  begin(): void {
    this.#depth = 0;
    this.#preemptions = 0;
    this.#sleep = new Map();
  }

  pick(view: RunView): number {
    const node = this.#nodes[this.#depth] ?? this.#expand(view);
    this.#depth++;
    const thread = node.alternatives[node.at] as number;
    if (this.#isPreemption(view, thread)) this.#preemptions++;
    if (this.#sleepSets) this.#enter(node, thread);
    return thread;
  }

  pickValue(count: number): number {
    let node = this.#nodes[this.#depth];
    if (!node) {
      node = {
        alternatives: Array.from({ length: count }, (_, i) => i),
        at: 0,
        sleep: this.#sleep,
        steps: undefined,
      };
      this.#nodes.push(node);
    }
    this.#depth++;
    return node.alternatives[node.at] as number;
  }

  /** Goes to the next schedule: the deepest node with an alternative left. */
  end(): boolean {
    for (let node = this.#nodes.at(-1); node; node = this.#nodes.at(-1)) {
      if (node.steps) {
        const thread = node.alternatives[node.at] as number;
        node.sleep = new Map(node.sleep).set(thread, node.steps.get(thread) as Step);
      }
      if (++node.at < node.alternatives.length) return true;
      this.#nodes.pop();
    }
    if (this.#sleepSets || !this.#cut || this.#limit >= this.#bound) return false;
    this.#limit++;
    this.#cut = false;
    return true;
  }

  /** Preemptions of the schedules that are searched now. */
  get limit(): number {
    return this.#limit;
  }

  #isPreemption({ last, enabled, threads }: RunView, thread: number): boolean {
    return (
      last >= 0 && thread !== last && enabled.includes(last) && threads[last]?.next.kind !== StepKind.yield
    );
  }

  #expand(view: RunView): Node {
    const { enabled, last, threads } = view;
    // The running thread first: schedules with few preemptions come first. After a yield, the others come first.
    const yields = threads[last]?.next.kind === StepKind.yield;
    const ordered = [...enabled].sort(
      (a, b) => Number((b === last) !== yields) - Number((a === last) !== yields),
    );
    const allowed = ordered.filter((thread) => {
      if (this.#sleep.has(thread)) return false;
      if (this.#preemptions < this.#limit || !this.#isPreemption(view, thread)) return true;
      this.#cut = true;
      return false;
    });
    if (allowed.length === 0) throw new PrunedError('explored');
    const steps = this.#sleepSets
      ? new Map(allowed.map((thread) => [thread, threads[thread]?.next as Step]))
      : undefined;
    const node: Node = { alternatives: allowed, at: 0, sleep: this.#sleep, steps };
    this.#nodes.push(node);
    return node;
  }

  /** Below a node, only sleeping steps that do not conflict with the performed one stay asleep. */
  #enter(node: Node, thread: number): void {
    const step = node.steps?.get(thread);
    this.#sleep = new Map([...node.sleep].filter(([, asleep]) => step && !conflict(asleep, step)));
  }
}
