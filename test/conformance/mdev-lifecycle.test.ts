/**
 * The recorded lifecycle steps, direct sysfs writes and whole trees of a Linux kernel against the registry and its tree.
 */
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { TREE_PARENTS, VECTOR_INSTANCES, VECTOR_PARENTS } from '../../src/mdev/recorded-parents.ts';
import { MdevError, MdevRegistry, type ParentSpec } from '../../src/mdev/registry.ts';
import { type SysfsEntry, SysfsTree } from '../../src/mdev/sysfs.ts';

const DATA = new URL('../data/mdev/', import.meta.url);

/** A recording of `test/data/mdev/`. */
const load = (name: string): unknown =>
  JSON.parse(gunzipSync(readFileSync(new URL(`${name}.json.gz`, DATA))).toString());

function host(parents: readonly ParentSpec[]): { registry: MdevRegistry; tree: SysfsTree } {
  const registry = new MdevRegistry();
  for (const parent of parents) registry.addParent(parent);
  return { registry, tree: new SysfsTree(registry) };
}

/** What a file operation gave, in the recording's terms. */
interface Outcome {
  readonly ret: number;
  readonly errno: string | null;
  readonly stage?: string;
  readonly data?: string;
  readonly entries?: readonly string[];
}

function attempt(action: () => Outcome): Outcome {
  try {
    return action();
  } catch (error) {
    if (!(error instanceof MdevError)) throw error;
    return { ret: -1, errno: error.errno, stage: error.stage };
  }
}

const written = (tree: SysfsTree, path: string, data: string): Outcome =>
  attempt(() => {
    expect(tree.write(path, data), `${path} blocks`).to.equal(undefined);
    return { ret: Buffer.byteLength(data), errno: null };
  });

// ---- section A

interface Step {
  readonly op: string;
  readonly path: string;
  readonly data: string;
  readonly ret: number;
  readonly errno: string | null;
  readonly stage?: string;
  readonly entries?: readonly string[];
}

interface Vector {
  readonly name: string;
  readonly desc: string;
  readonly steps: readonly Step[];
}

const SYSFS_STEPS: Readonly<Record<string, (tree: SysfsTree, step: Step) => Outcome>> = {
  sysfs_list: (tree, { path }) => attempt(() => ({ ret: 0, errno: null, entries: tree.list(path) })),
  sysfs_read: (tree, { path }) =>
    attempt(() => {
      const data = tree.read(path);
      return { ret: Buffer.byteLength(data), errno: null, data };
    }),
  sysfs_write: (tree, { path, data }) => written(tree, path, data),
};

/** The fields that a step recorded. */
const recordedOutcome = ({ op, ret, errno, stage, data, entries }: Step): Partial<Outcome> => ({
  ret,
  errno,
  ...(stage === undefined ? {} : { stage }),
  ...(op === 'sysfs_read' && data !== undefined ? { data } : {}),
  ...(entries === undefined ? {} : { entries }),
});

describe('mdev lifecycle: the recorded steps of section A', () => {
  const { vectors } = load('A_mdev_lifecycle') as { readonly vectors: readonly Vector[] };
  for (const { name, desc, steps } of vectors) {
    const others = [...new Set(steps.map(({ op }) => op).filter((op) => !(op in SYSFS_STEPS)))];
    const title = `${name}: ${desc}, ${steps.length} steps`;
    if (others.length > 0) it.skip(`${title} (needs containers and groups: ${others.join(', ')})`);
    else
      it(title, () => {
        const { registry, tree } = host(VECTOR_PARENTS);
        for (const [parent, type, uuid] of VECTOR_INSTANCES) registry.create(parent, type, uuid);
        for (const [index, step] of steps.entries()) {
          const outcome = SYSFS_STEPS[step.op]?.(tree, step);
          expect(outcome, `step ${index}: ${step.op} ${step.path} ${step.data}`).to.deep.include(
            recordedOutcome(step),
          );
        }
      });
  }
});

// ---- direct writes

interface RawStep {
  readonly n: number;
  readonly path: string;
  readonly data: string;
  /** Bytes taken, an errno, or `open:` and an errno. */
  readonly ret: number | string;
  readonly active: Readonly<
    Record<
      string,
      { readonly parent: string; readonly type: string; readonly sysfs?: Readonly<Record<string, string>> }
    >
  >;
  readonly avail: Readonly<Record<string, number>>;
}

const rawReturn = ({ ret, errno, stage }: Outcome): number | string =>
  errno === null ? ret : stage === 'open' ? `open:${errno}` : errno;

const readWord = (tree: SysfsTree, path: string): string => tree.read(path).trimEnd();

/** The state that the recorder read back after each write. */
function stateOf(registry: MdevRegistry, tree: SysfsTree): Pick<RawStep, 'active' | 'avail'> {
  const active: Record<string, RawStep['active'][string]> = {};
  for (const uuid of tree.list('/sys/bus/mdev/devices')) {
    const { parent, type } = registry.get(uuid) ?? { parent: '', type: '' };
    const path = `/sys/bus/mdev/devices/${uuid}`;
    const sysfs = tree.list(path).includes('color')
      ? Object.fromEntries(
          ['color', 'level', 'ctl/mode'].map((name) => [name, readWord(tree, `${path}/${name}`)]),
        )
      : undefined;
    active[uuid] = sysfs ? { parent, type, sysfs } : { parent, type };
  }
  const avail = Object.fromEntries(
    [...registry.parents()].flatMap((parent) =>
      [...parent.types()].map((type) => [`${parent.name} ${type.id}`, parent.available(type)]),
    ),
  );
  return { active, avail };
}

describe('mdev sysfs: the recorded direct writes', () => {
  it('gives the bytes taken or the errno, and the state after each of them', () => {
    const { registry, tree } = host(TREE_PARENTS);
    const steps = load('raw-sysfs') as readonly RawStep[];
    expect(steps.length).to.equal(43);
    for (const { n, path, data, ret, active, avail } of steps) {
      expect(rawReturn(written(tree, path, data)), `${n}: ${data} to ${path}`).to.equal(ret);
      expect(stateOf(registry, tree), `state after ${n}: ${data} to ${path}`).to.deep.equal({
        active,
        avail,
      });
    }
  });
});
