/**
 * Compares the registry and its sysfs tree with recordings of a Linux kernel: lifecycle steps, direct writes, trees.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { TREE_PARENTS, VECTOR_INSTANCES, VECTOR_PARENTS } from '../../src/mdev/recorded-parents.ts';
import { MdevError, type MdevInstance, MdevRegistry, type ParentSpec } from '../../src/mdev/registry.ts';
import { type SysfsEntry, SysfsTree } from '../../src/mdev/sysfs.ts';
import { readRecorded } from '../support/recorded-files.ts';

function host(parents: readonly ParentSpec[]): { registry: MdevRegistry; tree: SysfsTree } {
  const registry = new MdevRegistry();
  for (const parent of parents) registry.addParent(parent);
  return { registry, tree: new SysfsTree(registry) };
}

/** Result of a file operation, in the recording's terms. */
interface Outcome {
  readonly ret: number | 'fd';
  readonly errno: string | null;
  readonly stage?: string;
  readonly data?: string;
  readonly entries?: readonly string[];
  readonly state?: string;
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
  readonly ret?: number | 'fd';
  readonly errno?: string | null;
  readonly stage?: string;
  readonly entries?: readonly string[];
  readonly obj?: string;
  readonly state?: string;
  readonly state_after_1500ms?: string;
}

interface Vector {
  readonly name: string;
  readonly desc: string;
  readonly steps: readonly Step[];
}

/** Host of one vector, and the state that its steps pass to later ones. */
interface Rig {
  readonly registry: MdevRegistry;
  readonly tree: SysfsTree;
  /** Instance whose group was opened: the last created one. */
  opened?: MdevInstance;
  /** A write that blocks. */
  waiting?: Promise<void> | undefined;
  returned: boolean;
}

type StepRun = (rig: Rig, step: Step) => Outcome | Promise<Outcome>;

/** Steps of the registry and its tree. Steps on containers and groups are skipped. */
const STEPS: Readonly<Record<string, StepRun>> = {
  sysfs_list: ({ tree }, { path }) => attempt(() => ({ ret: 0, errno: null, entries: tree.list(path) })),
  sysfs_read: ({ tree }, { path }) =>
    attempt(() => {
      const data = tree.read(path);
      return { ret: Buffer.byteLength(data), errno: null, data };
    }),
  sysfs_write: ({ tree }, { path, data }) => written(tree, path, data),
  sysfs_write_async: async (rig, { path, data }) => {
    rig.waiting = rig.tree.write(path, data);
    rig.returned = rig.waiting === undefined;
    rig.waiting?.then(() => {
      rig.returned = true;
    });
    await nextTurn();
    return { ret: data.length, errno: null, state: rig.returned ? 'done' : 'blocked' };
  },
  sysfs_write_async_result: async (rig) => {
    await nextTurn();
    return { ret: 1, errno: null, state: rig.returned ? 'done' : 'blocked' };
  },
  open_group: (rig) => {
    const last = [...rig.registry.instances()].at(-1);
    if (last) rig.opened = last;
    return { ret: 'fd', errno: null };
  },
  group_get_device_fd: ({ opened }) =>
    attempt(() => {
      opened?.open();
      return { ret: 'fd', errno: null };
    }),
  close: ({ opened }, { obj }) => {
    if (obj?.startsWith('d')) opened?.close();
    return { ret: 0, errno: null };
  },
};

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Returns the outcome that a step recorded. */
function recordedOutcome(step: Step): Partial<Outcome> {
  const { op, ret, errno, stage, data, entries } = step;
  const state = step.state ?? step.state_after_1500ms;
  return {
    ...(ret === undefined ? {} : { ret, errno: errno ?? null }),
    ...(stage === undefined ? {} : { stage }),
    ...(op === 'sysfs_read' && data !== undefined ? { data } : {}),
    ...(entries === undefined ? {} : { entries }),
    ...(state === undefined ? {} : { state }),
  };
}

describe('mdev lifecycle: recorded steps of section A', () => {
  const { vectors } = readRecorded('mdev', 'A_mdev_lifecycle') as { readonly vectors: readonly Vector[] };
  for (const { name, desc, steps } of vectors) {
    const known = steps.filter(({ op }) => op in STEPS);
    const others = [...new Set(steps.map(({ op }) => op).filter((op) => !(op in STEPS)))];
    const skipped = others.length === 0 ? '' : `; skipped, as they need containers: ${others.join(', ')}`;
    it(`${name}: ${desc}, ${known.length} of ${steps.length} steps${skipped}`, async () => {
      const rig: Rig = { ...host(VECTOR_PARENTS), returned: false };
      for (const [parent, type, uuid] of VECTOR_INSTANCES) rig.registry.create(parent, type, uuid);
      for (const step of known) {
        const outcome = await STEPS[step.op]?.(rig, step);
        const what = `step ${steps.indexOf(step)}: ${step.op} ${step.path ?? ''} ${step.data ?? ''}`;
        expect(outcome, what).to.deep.include(recordedOutcome(step));
      }
    });
  }
});

// ---- direct writes

interface RawStep {
  readonly n: number;
  readonly path: string;
  readonly data: string;
  /** Count of written bytes, an errno, or `open:` and an errno. */
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

/** Returns the state in the form that the recorder read back after each write. */
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

describe('mdev sysfs: recorded direct writes', () => {
  it('returns the recorded byte count or errno, and has the recorded state after each write', () => {
    const { registry, tree } = host(TREE_PARENTS);
    const steps = readRecorded('mdev', 'raw-sysfs') as readonly RawStep[];
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

// ---- whole trees

interface RecordedEntry {
  readonly path: string;
  readonly type: SysfsEntry['type'];
  /** For example `0o755`. */
  readonly mode: string;
  readonly target?: string | null;
  readonly content?: string | null;
  readonly read_errno?: string | null;
}

/** Returns a recorded path as one line, in the same form as {@link entryText}. */
const recordedText = ({ type, mode, target, content, read_errno }: RecordedEntry): string =>
  JSON.stringify([type, Number(mode), type === 'link' ? target : (content ?? read_errno ?? null)]);

const entryText = (entry: SysfsEntry): string =>
  JSON.stringify([
    entry.type,
    entry.mode,
    entry.type === 'link'
      ? entry.target
      : entry.type === 'file'
        ? (entry.content ?? entry.readErrno ?? null)
        : null,
  ]);

/** Recorded paths that differ in the tree, each with its reason. There are none at present. */
const DIFFERING: readonly { readonly path: RegExp; readonly why: string }[] = [];

/** Paths of the tree that the recording lacks, each with its reason. */
const NOT_RECORDED: readonly { readonly path: RegExp; readonly why: string }[] = [
  {
    path: /^\/sys(\/(bus|class|devices|devices\/virtual|kernel|module))?$/,
    why: 'above the recorded directories',
  },
  {
    path: /^\/sys\/devices\/virtual\/orc(\/orc)?(\/[0-9a-f-]{36})?$/,
    why: "only parts of orc's directory and of its instance were recorded",
  },
  {
    path: /^\/sys\/devices\/virtual\/orc\/orc\/([0-9a-f-]{36}\/)?(driver|power|remove|subsystem|uevent|vfio-dev)(\/|$)/,
    why: "only parts of orc's directory and of its instance were recorded",
  },
  { path: /^\/sys\/class\/(orc|vfio-dev)(\/|$)/, why: 'these classes were not recorded' },
  {
    path: /^\/sys\/module\/(mtty|mdpy|orc|tdev)(\/(holders|drivers(\/.*)?))?$/,
    why: "only parts of the drivers' modules were recorded",
  },
];

/** Instances of `sysfs-after`, in the order of their groups. */
const TREE_INSTANCES: readonly (readonly [parent: string, type: string, digit: string])[] = [
  ['mtty', 'mtty-1', '1'],
  ['mtty', 'mtty-2', '2'],
  ['mdpy', 'mdpy-vga', '3'],
  ['mdpy', 'mdpy-hd', '4'],
  ['orc', 'orc-std', '5'],
  ['tdev0', 'tdev-a', '6'],
  ['tdev0', 'tdev-b', '7'],
  ['0000:5e:00.0', 'tdev-a', '8'],
];

const RECORDED_TREES = [
  { name: 'sysfs-before', paths: 242, instances: [] },
  { name: 'sysfs-after', paths: 563, instances: TREE_INSTANCES },
] as const;

describe('mdev sysfs: recorded trees', () => {
  for (const { name, paths, instances } of RECORDED_TREES)
    it(`${name}: the tree has the ${paths} recorded paths with type, mode, target and content, and no others`, () => {
      const { registry, tree } = host(TREE_PARENTS);
      for (const [parent, type, digit] of instances)
        registry.create(parent, type, `${digit.repeat(8)}-aaaa-4bbb-8ccc-00000000000${digit}`);
      const actual = new Map([...tree.entries()].map((entry) => [entry.path, entryText(entry)]));
      const recorded = readRecorded('mdev', name) as readonly RecordedEntry[];
      expect(recorded.length).to.equal(paths);
      const differences = recorded
        .filter((entry) => actual.get(entry.path) !== recordedText(entry))
        .map((entry) => `${entry.path}: recorded ${recordedText(entry)}, actual ${actual.get(entry.path)}`)
        .filter((line) => !DIFFERING.some(({ path }) => path.test(line)));
      expect(differences).to.deep.equal([]);
      const known = new Set(recorded.map(({ path }) => path));
      const unexplained = [...actual.keys()]
        .filter((path) => !known.has(path))
        .filter((path) => !NOT_RECORDED.some((reason) => reason.path.test(path)));
      expect(unexplained).to.deep.equal([]);
    });
});
