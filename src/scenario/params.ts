/**
 * The parameters of a scenario: data that JSON can say, of a bounded size, because every guest gets a copy.
 */
import { nearest } from '../platform/nearest.ts';
import { boundedText } from '../report/text.ts';

/** Maximum depth of nested lists and objects. */
export const PARAMS_DEPTH_LIMIT = 32;
/** Maximum length of the parameters as JSON. */
export const PARAMS_LENGTH_LIMIT = 256 * 1024;

/** Parameters that every scenario has, from the vIOMMU's driver. */
const COMMON = ['stage'];

/** Maximum count of characters of a parameter's name in a message. */
const NAME_SHOWN = 80;

/** Returns what is wrong with parameters, with the name and what is accepted; empty if nothing is. */
export function paramsProblem(params: unknown): string {
  try {
    return new ParamsCheck().problem(params, '', 0);
  } catch (error) {
    return `cannot be read: ${boundedText(error, NAME_SHOWN)}`;
  }
}

class ParamsCheck {
  #length = 0;
  readonly #parents = new Set<unknown>();

  problem(value: unknown, name: string, depth: number): string {
    const at = name === '' ? '' : `${boundedText(name.slice(1), NAME_SHOWN)}: `;
    if (!this.#fits(value))
      return `more than ${PARAMS_LENGTH_LIMIT} characters of JSON; accepted: up to that`;
    if (value === null || typeof value === 'boolean' || typeof value === 'string') return '';
    if (typeof value === 'number')
      return Number.isFinite(value) ? '' : `${at}${value}; accepted: what JSON can say`;
    if (typeof value !== 'object') return `${at}a value of type ${typeof value}; accepted: what JSON can say`;
    if (this.#parents.has(value))
      return `${at}refers to an object that contains it; accepted: what JSON can say`;
    if (depth >= PARAMS_DEPTH_LIMIT)
      return `${at}deeper than ${PARAMS_DEPTH_LIMIT} levels; accepted: up to that`;
    if (!isPlain(value))
      return `${at}a ${boundedText(kindOf(value), NAME_SHOWN)}; accepted: what JSON can say`;
    return this.#problemInside(value, name, depth);
  }

  #problemInside(value: object, name: string, depth: number): string {
    this.#parents.add(value);
    // A list with holes, which JSON cannot say, may be of any length: entries() stops at the first hole.
    const entries = Array.isArray(value) ? value.entries() : Object.entries(value);
    for (const [key, item] of entries) {
      const problem = this.#keyProblem(key) || this.problem(item, `${name}.${key}`, depth + 1);
      if (problem !== '') return problem;
    }
    this.#parents.delete(value);
    return '';
  }

  #keyProblem(key: string | number): string {
    return this.#fits(String(key))
      ? ''
      : `names of more than ${PARAMS_LENGTH_LIMIT} characters; accepted: up to that`;
  }

  /** Adds a value's own characters; one beside brackets counts for every value. */
  #fits(value: unknown): boolean {
    this.#length += typeof value === 'string' ? value.length + 3 : 2;
    return this.#length <= PARAMS_LENGTH_LIMIT;
  }
}

function isPlain(value: object): boolean {
  if (Array.isArray(value)) return true;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || prototype === Object.prototype;
}

const kindOf = (value: object): string => value.constructor?.name ?? 'object';

/**
 * Returns what is wrong with the names of the command line's parameters; empty if nothing is. A scenario that declares
 * `params` takes no others.
 */
export function unknownParam(given: object, declared: readonly string[] | undefined): string {
  if (declared === undefined) return '';
  const accepted = [...declared, ...COMMON];
  const unknown = Object.keys(given).find((name) => !accepted.includes(name));
  if (unknown === undefined) return '';
  const instead = declared.length > 0 ? `nearest: ${nearest(unknown, declared)}; accepted: ` : 'accepted: ';
  const names = declared.length > 0 ? accepted.join(', ') : `none, but ${COMMON.join(', ')}`;
  return `unknown parameter '${boundedText(unknown, NAME_SHOWN)}'; ${instead}${boundedText(names)}`;
}
