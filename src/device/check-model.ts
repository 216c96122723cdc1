/**
 * Check of the value that a model factory returns: a user's file may return anything.
 */
import { ConfigSpace } from '../pci/config-space.ts';
import { isObject } from '../platform/is-object.ts';
import { check, checkFunction, checkList } from './check.ts';
import { DeviceMemory } from './memory.ts';
import type { DeviceModel, ModelState } from './model.ts';

/** @throws DeviceDefinitionError unless `answer` is a device model */
export function checkModel(answer: unknown): asserts answer is DeviceModel {
  check(isObject(answer), 'the model', answer, 'an object, { config, bars, step, dmaUnmap, close }');
  const model = answer as DeviceModel;
  check(model.config instanceof ConfigSpace, "the model's config", model.config, 'a ConfigSpace');
  check(isObject(model.bars), "the model's bars", model.bars, 'an object, { 0: region }');
  for (const name of ['step', 'dmaUnmap', 'close'] as const)
    checkFunction(`the model's ${name}`, model[name]);
  for (const name of ['scanout', 'suspend'] as const)
    if (model[name] !== undefined) checkFunction(`the model's ${name}`, model[name]);
  for (const [bar, { size, read, write }] of Object.entries(model.bars)) {
    const answers = typeof read === 'function' && typeof write === 'function';
    const isRegion = answers && Number.isSafeInteger(size) && size >= 0;
    check(isRegion, `BAR${bar}`, `a region of ${size} bytes`, 'an object, { size, read, write }');
  }
  if (model.state !== undefined) checkState(model.state);
  for (const memory of checkList("the model's memories", model.memories, 'DeviceMemory'))
    check(memory instanceof DeviceMemory, "one of the model's memories", memory, 'a DeviceMemory');
  checkNames(model);
}

function checkState(state: ModelState): void {
  check(isObject(state), "the model's state", state, 'an object, { version, save, restore }');
  const { version, oldest = version } = state;
  const isVersion = (value: unknown) => Number.isInteger(value) && (value as number) >= 1;
  check(isVersion(version), "the version of the model's state", version, 'integers from 1');
  const isOldest = isVersion(oldest) && oldest <= version;
  check(isOldest, "the oldest version of the model's state", oldest, `1 to ${version}`);
  for (const name of ['save', 'restore'] as const) checkFunction(`the model's state.${name}`, state[name]);
}

/** A migration stream identifies memories by their names. */
function checkNames({ bars, memories = [] }: DeviceModel): void {
  const behindBars = Object.values(bars).filter((region) => region instanceof DeviceMemory);
  const names = [...new Set([...memories, ...behindBars])].map(({ name }) => name);
  const isUnique = new Set(names).size === names.length;
  check(isUnique, "the names of the model's memories", names.join(), 'all different');
}
