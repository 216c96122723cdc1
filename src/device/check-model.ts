/**
 * Is what a factory answers a model? A user's file may export anything.
 */

import { ConfigSpace } from '../pci/config-space.ts';
import { isObject } from '../platform/is-object.ts';
import { DeviceDefinitionError } from './errors.ts';
import { DeviceMemory } from './memory.ts';
import type { DeviceModel, ModelState } from './model.ts';

function check(holds: boolean, what: string, found: unknown, accepted: string): void {
  if (!holds) throw new DeviceDefinitionError(`${what} is ${String(found)}; accepted: ${accepted}`);
}

/** @throws DeviceDefinitionError for what a factory answers that is no model */
export function checkModel(answer: unknown): asserts answer is DeviceModel {
  check(isObject(answer), 'the model', answer, 'an object, { config, bars, step, dmaUnmap, close }');
  const model = answer as DeviceModel;
  check(model.config instanceof ConfigSpace, "the model's config", model.config, 'a ConfigSpace');
  check(isObject(model.bars), "the model's bars", model.bars, 'an object, { 0: region }');
  for (const name of ['step', 'dmaUnmap', 'close'] as const)
    check(typeof model[name] === 'function', `the model's ${name}`, model[name], 'a function');
  for (const name of ['scanout', 'suspend'] as const)
    check(
      ['undefined', 'function'].includes(typeof model[name]),
      `the model's ${name}`,
      model[name],
      'a function',
    );
  const { state, memories } = model;
  for (const [bar, { size, read, write }] of Object.entries(model.bars)) {
    const answers = typeof read === 'function' && typeof write === 'function';
    check(
      answers && Number.isSafeInteger(size) && size >= 0,
      `BAR${bar}`,
      `a region of ${size} bytes`,
      'an object, { size, read, write }',
    );
  }
  if (state !== undefined) checkState(state);
  if (memories !== undefined) checkMemories(memories);
  checkNames(model);
}

function checkState(state: ModelState): void {
  check(isObject(state), "the model's state", state, 'an object, { version, save, restore }');
  const { version, oldest = version } = state;
  const isVersion = (value: unknown) => Number.isInteger(value) && (value as number) >= 1;
  check(isVersion(version), "the version of the model's state", version, 'integers from 1');
  check(
    isVersion(oldest) && oldest <= version,
    "the oldest version of the model's state",
    oldest,
    `1 to ${version}`,
  );
  for (const name of ['save', 'restore'] as const)
    check(typeof state[name] === 'function', `the model's state.${name}`, state[name], 'a function');
}

function checkMemories(memories: DeviceModel['memories']): void {
  check(Array.isArray(memories), "the model's memories", memories, 'a list of DeviceMemory');
  for (const memory of memories!)
    check(memory instanceof DeviceMemory, "one of the model's memories", memory, 'a DeviceMemory');
}

/** By their names the memories are told apart on the way to another host. */
function checkNames({ bars, memories = [] }: DeviceModel): void {
  const behindBars = Object.values(bars).filter((region) => region instanceof DeviceMemory);
  const all = new Set([...memories, ...behindBars]);
  const names = [...all].map(({ name }) => name);
  check(
    new Set(names).size === names.length,
    "the names of the model's memories",
    names.join(),
    'all different',
  );
}
