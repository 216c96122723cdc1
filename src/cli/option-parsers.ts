/**
 * Parsers of the values of options.
 */
import { InvalidArgumentError, Option } from 'commander';
import type { Shard } from '../report/record.ts';
import { parseShard, SHARD_ACCEPTED } from '../scenario/shard.ts';

/** Returns an option parser for an integer in a range. */
export const integer = (min: number, max: number) => (text: string) => {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max)
    throw new InvalidArgumentError(`accepted: ${min} to ${max}`);
  return value;
};

/** Parses `name=value` and adds it to the previous parameters. */
export const parameter = (
  text: string,
  before: Readonly<Record<string, unknown>>,
): Record<string, unknown> => {
  const [, name, value] = /^([^=]+)=(.*)$/s.exec(text) ?? [];
  if (name === undefined || value === undefined) throw new InvalidArgumentError('accepted: name=value');
  try {
    return { ...before, [name]: JSON.parse(value) as unknown };
  } catch {
    return { ...before, [name]: value };
  }
};

/** Parses `i/n`. */
export const shardOption = (text: string): Shard => {
  const shard = parseShard(text);
  if (!shard) throw new InvalidArgumentError(SHARD_ACCEPTED);
  return shard;
};

/** Returns an option whose value is empty by default. */
export const optional = (flags: string, description: string): Option =>
  new Option(flags, description).default('', 'none');
