/**
 * Shards: parts of a run that run at different places and are merged. Shard i of n has the VMs i − 1, i − 1 + n, …, so
 * that each one has VMs of every large group.
 */
import type { Shard } from '../report/record.ts';

/** Maximum count of shards. */
export const SHARDS_LIMIT = 256;

export const SHARD_ACCEPTED = `accepted: i/n with i from 1 to n and n up to ${SHARDS_LIMIT}, such as 1/4`;

/** Returns a shard of a text such as `1/4`; undefined for any other text. */
export function parseShard(text: string): Shard | undefined {
  const [, first, second] = /^([1-9]\d*)\/([1-9]\d*)$/.exec(text) ?? [];
  const [index, count] = [Number(first), Number(second)];
  return count <= SHARDS_LIMIT && index <= count ? { index, count } : undefined;
}

export const shardText = ({ index, count }: Shard): string => `${index}/${count}`;

/** Returns whether a VM is in the shard; without a shard, every VM is. */
export const isInShard = (vm: number, shard: Shard | undefined): boolean =>
  shard === undefined || vm % shard.count === shard.index - 1;
