/**
 * The writer's record of a pin table's nodes. A node is free, used (with a count of used entries) or retired.
 *
 * A node that was dropped whole keeps its old words and is `dirty`. Zeroing 4 KiB costs more than the drop, and the
 * next use may overwrite every word anyway.
 */
import * as mem from '#mem';
import * as layout from './layout.ts';

const { fillWords } = mem;
const { NODE_WORDS, WORD_NODES } = layout;

/** Thrown by a map when too few nodes are free; nothing was mapped. */
export class PinTableFullError extends Error {
  constructor(nodes: number) {
    super(`pin table is full: all ${nodes} nodes are in use`);
    this.name = 'PinTableFullError';
  }
}

/** Nodes for which a new table has a count. */
const COUNTED_AT_FIRST = 1024;

/** The nodes of one table. A node's name is its word index. */
export class NodePool {
  readonly nodes: number;
  readonly #table: mem.SharedWords;
  /** Count of used entries, by node. It grows with the nodes in use: most tables use few of theirs. */
  #used: Uint16Array;
  /** Free nodes: those whose words are all zero, and those with old words. */
  readonly #clean: number[] = [];
  readonly #dirty: number[] = [];
  /** Retired nodes: free once the readers have drained. */
  readonly #retiredClean: number[] = [];
  readonly #retiredDirty: number[] = [];
  #fresh = 0;

  constructor(table: mem.SharedWords, nodes: number) {
    this.nodes = nodes;
    this.#table = table;
    this.#used = new Uint16Array(Math.min(nodes, COUNTED_AT_FIRST));
  }

  /** Count of nodes that cannot be taken now, including the retired ones. */
  get inUse(): number {
    return this.#fresh - this.#clean.length - this.#dirty.length;
  }

  /** Takes a node of zeros. @throws PinTableFullError */
  take(): number {
    const node = this.#clean.pop();
    if (node !== undefined) return node;
    const old = this.#dirty.pop();
    if (old === undefined) return this.#takeFresh();
    fillWords(this.#table, old, NODE_WORDS, 0, 'map.zero');
    return old;
  }

  /** Takes a node with arbitrary words; the caller writes all of them. @throws PinTableFullError */
  takeAny(): number {
    return this.#dirty.pop() ?? this.#clean.pop() ?? this.#takeFresh();
  }

  /** Adds `by` to the used entries of the node that contains `entry`. Entries of the roots are not counted. */
  count(entry: number, by: number): void {
    const node = numberOf(entry);
    if (node >= 0 && node < this.#used.length) this.#used[node] = (this.#used[node] as number) + by;
  }

  isEmpty(node: number): boolean {
    return this.#used[numberOf(node)] === 0;
  }

  /** Retires an empty node, whose words are all zero. */
  retire(node: number): void {
    this.#retiredClean.push(node);
  }

  /** Retires a node with all its entries. */
  drop(node: number): void {
    this.#used[numberOf(node)] = 0;
    this.#retiredDirty.push(node);
  }

  /** Frees the retired nodes: the readers have drained. */
  reclaim(): void {
    if (this.#retiredClean.length === 0 && this.#retiredDirty.length === 0) return;
    for (const node of this.#retiredClean) this.#clean.push(node);
    for (const node of this.#retiredDirty) this.#dirty.push(node);
    this.#retiredClean.length = 0;
    this.#retiredDirty.length = 0;
  }

  #takeFresh(): number {
    if (this.#fresh >= this.nodes) throw new PinTableFullError(this.nodes);
    if (this.#fresh >= this.#used.length) this.#used = grown(this.#used, this.nodes);
    return WORD_NODES + this.#fresh++ * NODE_WORDS;
  }
}

/** Returns a copy with twice the length, at most `limit`. */
function grown(counts: Uint16Array, limit: number): Uint16Array {
  const longer = new Uint16Array(Math.min(limit, counts.length * 2));
  longer.set(counts);
  return longer;
}

/** Returns the index of the node that contains `word`; negative for words of the header and the root. */
const numberOf = (word: number): number => Math.floor((word - WORD_NODES) / NODE_WORDS);
