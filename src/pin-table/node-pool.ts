/**
 * The nodes of a pin table, as its writer keeps account of them: free, used and how full, or waiting for readers.
 *
 * A node that was dropped whole keeps its old words and is `dirty`: zeroing 4 KiB costs more than the drop, and the
 * next user may overwrite all of it anyway.
 */
import * as mem from '#mem';
import * as layout from './layout.ts';

const { fillWords } = mem;
const { NODE_WORDS, WORD_NODES } = layout;

/** Thrown by map when the table has no node left; nothing was mapped. */
export class PinTableFullError extends Error {
  constructor(nodes: number) {
    super(`pin table is full: all ${nodes} nodes are in use`);
    this.name = 'PinTableFullError';
  }
}

/** Nodes are named by their word index. */
export class NodePool {
  readonly nodes: number;
  readonly #table: mem.SharedWords;
  /** Used entries of each node. */
  readonly #used: Uint16Array;
  /** Free nodes whose words are all zero, and those with old words in them. */
  readonly #clean: number[] = [];
  readonly #dirty: number[] = [];
  /** Nodes out of use, reusable once readers have drained. */
  readonly #retiredClean: number[] = [];
  readonly #retiredDirty: number[] = [];
  #fresh = 0;

  constructor(table: mem.SharedWords, nodes: number) {
    this.nodes = nodes;
    this.#table = table;
    this.#used = new Uint16Array(nodes);
  }

  /** Nodes that cannot be taken now; retired ones are among them. */
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

  /** Takes a node with any words in it; the caller writes all of them. @throws PinTableFullError */
  takeAny(): number {
    return this.#dirty.pop() ?? this.#clean.pop() ?? this.#takeFresh();
  }

  /** Counts `by` more used entries in the node that `entry` is in; entries of the roots are not counted. */
  count(entry: number, by: number): void {
    const node = numberOf(entry);
    if (node >= 0 && node < this.nodes) this.#used[node] = (this.#used[node] as number) + by;
  }

  isEmpty(node: number): boolean {
    return this.#used[numberOf(node)] === 0;
  }

  /** Retires an empty node: its words are all zero. */
  retire(node: number): void {
    this.#retiredClean.push(node);
  }

  /** Retires a node with everything that is in it. */
  drop(node: number): void {
    this.#used[numberOf(node)] = 0;
    this.#retiredDirty.push(node);
  }

  /** Readers have drained: retired nodes may be taken again. */
  reclaim(): void {
    if (this.#retiredClean.length === 0 && this.#retiredDirty.length === 0) return;
    for (const node of this.#retiredClean) this.#clean.push(node);
    for (const node of this.#retiredDirty) this.#dirty.push(node);
    this.#retiredClean.length = 0;
    this.#retiredDirty.length = 0;
  }

  #takeFresh(): number {
    if (this.#fresh >= this.nodes) throw new PinTableFullError(this.nodes);
    return WORD_NODES + this.#fresh++ * NODE_WORDS;
  }
}

/** Number of the node that the word is in; negative for words of the header and the root. */
const numberOf = (word: number): number => Math.floor((word - WORD_NODES) / NODE_WORDS);
