import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { describe, it } from 'mocha';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** The floors of src/, lowest first. A folder imports only from lower floors. */
const FLOORS: readonly (readonly string[])[] = [
  ['platform', 'proto'],
  ['memory', 'mdev'],
  ['channel', 'registers', 'pin-table'],
  ['pci', 'gpu', 'vfio'],
  ['abi', 'metrics'],
  ['virtio', 'report'],
  ['guest', 'viommu', 'device'],
  ['models', 'coordinator', 'load', 'vfio-user'],
  ['scenario', 'conformance', 'explore'],
  ['serve', 'dashboard'],
  ['cli'],
];

/** The files behind the names of package.json's `imports`. */
const ALIASES: Readonly<Record<string, string>> = {
  '#mem': 'src/platform/shared-memory.ts',
  '#host': 'src/platform/platform.ts',
};

/** The sources that a device model may import. */
const MODEL_IMPORTS = ['device', 'gpu', 'abi', 'pci', 'registers', 'memory', 'virtio'];

/** Names that only one file may use. */
const CONFINED: readonly { readonly name: string; readonly uses: RegExp; readonly file: string }[] = [
  { name: 'Date.now', uses: /\bDate\s*\.\s*now\b/, file: 'src/platform/platform.ts' },
  { name: 'the present as a Date', uses: /\bnew\s+Date\s*\(\s*\)/, file: 'src/platform/platform.ts' },
  { name: 'Math.random', uses: /\bMath\s*\.\s*random\b/, file: 'src/platform/platform.ts' },
  { name: 'performance', uses: /\bperformance\s*\.\s*(now|timeOrigin)\b/, file: 'src/platform/platform.ts' },
  { name: 'process.hrtime', uses: /\bprocess\s*\.\s*hrtime\b/, file: 'src/platform/platform.ts' },
  {
    name: 'raw timers',
    uses: /\bset(Timeout|Interval|Immediate)\b|node:timers/,
    file: 'src/platform/platform.ts',
  },
  { name: 'the foreign function interface', uses: /\bfrom\s*['"]koffi['"]/, file: 'src/vfio-user/linux.ts' },
  { name: 'Atomics', uses: /\bAtomics\b/, file: 'src/platform/shared-memory.ts' },
];

/** Returns source text without its comments. */
const withoutComments = (text: string): string =>
  text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|[\s;{}(,])\/\/.*$/gm, '$1');

/** Returns the module specifiers that a source text imports or re-exports, also by `import()`. */
function importsOf(text: string): string[] {
  const code = withoutComments(text);
  const statement = /^[ \t]*(?:import|export)\b[^;'"]*?\bfrom\s*['"]([^'"]+)['"]/gm;
  const bare = /^[ \t]*import\s*['"]([^'"]+)['"]/gm;
  const dynamic = /\bimport\(\s*['"`]([^'"`]+)['"`]/g;
  return [statement, bare, dynamic].flatMap((pattern) =>
    [...code.matchAll(pattern)].map((m) => m[1] as string),
  );
}

interface SourceFile {
  /** The path from the repository's root, with forward slashes. */
  readonly path: string;
  readonly code: string;
  /** The files of the repository that this file imports. */
  readonly imports: readonly string[];
}

function sourceFile(path: string, text: string): SourceFile {
  const imports = importsOf(text)
    .map((name) => ALIASES[name] ?? (name.startsWith('.') ? join(dirname(path), name) : undefined))
    .filter((name) => name !== undefined);
  return { path, code: withoutComments(text), imports };
}

function sources(folder: string): SourceFile[] {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => {
      const file = join(entry.parentPath, entry.name);
      return sourceFile(relative(ROOT, file).replaceAll('\\', '/'), readFileSync(file, 'utf8'));
    });
}

/** Returns `guest` for src/guest/x.ts, and undefined for src/index.ts and for files outside src/. */
const folderOf = (path: string): string | undefined => /^src\/([^/]+)\//.exec(path)?.[1];
const floorOf = (folder: string): number => FLOORS.findIndex((floor) => floor.includes(folder));

/** Returns every import that does not go to a lower floor, as `from → to`. */
function upwardImports(files: readonly SourceFile[]): string[] {
  return files.flatMap(({ path, imports }) => {
    const from = folderOf(path);
    if (from === undefined) return [];
    return imports
      .filter((target) => {
        const to = folderOf(target);
        return to !== from && (to === undefined || floorOf(to) >= floorOf(from));
      })
      .map((target) => `${path} → ${target}`);
  });
}

/** Returns the nodes of a cycle in `next`, or undefined. */
function cycleIn(next: ReadonlyMap<string, ReadonlySet<string>>): string[] | undefined {
  const done = new Set<string>();
  const visit = (node: string, path: readonly string[]): string[] | undefined => {
    if (path.includes(node)) return [...path.slice(path.indexOf(node)), node];
    if (done.has(node)) return undefined;
    for (const target of next.get(node) ?? []) {
      const cycle = visit(target, [...path, node]);
      if (cycle) return cycle;
    }
    done.add(node);
    return undefined;
  };
  for (const node of next.keys()) {
    const cycle = visit(node, []);
    if (cycle) return cycle;
  }
  return undefined;
}

function folderGraph(files: readonly SourceFile[]): Map<string, Set<string>> {
  const graph = new Map<string, Set<string>>();
  for (const { path, imports } of files) {
    const from = folderOf(path);
    if (from === undefined) continue;
    const targets = graph.get(from) ?? new Set<string>();
    for (const to of imports.map(folderOf)) if (to !== undefined && to !== from) targets.add(to);
    graph.set(from, targets);
  }
  return graph;
}

/** Maps every source file to the files that it imports, type imports included. */
const fileGraph = (files: readonly SourceFile[]): Map<string, Set<string>> =>
  new Map(files.map(({ path, imports }) => [path, new Set(imports)]));

const SRC = sources('src');
const WORKERS = sources('workers');

describe('floors of the repository', () => {
  it('include every folder of src/', () => {
    const folders = new Set(SRC.map(({ path }) => folderOf(path)).filter((folder) => folder !== undefined));
    expect([...folders].filter((folder) => floorOf(folder) < 0)).to.deep.equal([]);
    expect(folders.size).to.be.greaterThan(5);
  });

  it('have only imports of lower floors', () => {
    expect(upwardImports(SRC)).to.deep.equal([]);
  });

  it('have no cycle between folders', () => {
    expect(cycleIn(folderGraph(SRC))).to.equal(undefined);
  });

  it('have no cycle between files', () => {
    expect(cycleIn(fileGraph([...SRC, ...WORKERS]))).to.equal(undefined);
  });

  it('close descriptors of served devices in linux.ts alone, which keeps their ledger', () => {
    const closing = SRC.filter(
      ({ path, code }) => path.startsWith('src/vfio-user/') && /\bcloseSync\b/.test(code),
    );
    expect(closing.map(({ path }) => path)).to.deep.equal([]);
  });

  it('have no import of a missing file', () => {
    const known = new Set([...SRC, ...WORKERS].map(({ path }) => path));
    const missing = [...SRC, ...WORKERS].flatMap(({ path, imports }) =>
      imports.filter((target) => !known.has(target)).map((target) => `${path} → ${target}`),
    );
    expect(missing).to.deep.equal([]);
  });

  it('have no import of workers/ in src/', () => {
    const upward = SRC.filter(({ imports }) => imports.some((target) => target.startsWith('workers/')));
    expect(upward.map(({ path }) => path)).to.deep.equal([]);
  });

  it('have no import of the container in the vIOMMUs', () => {
    expect(folderGraph(SRC).get('viommu')).to.not.include('vfio');
  });

  it(`let device models import only ${MODEL_IMPORTS.join(', ')}`, () => {
    const models = SRC.filter(({ path }) => folderOf(path) === 'models');
    expect(models.length).to.be.greaterThan(0);
    const outside = models.flatMap(({ path, imports }) =>
      imports
        .filter((target) => !['models', ...MODEL_IMPORTS].includes(folderOf(target) ?? ''))
        .map((target) => `${path} → ${target}`),
    );
    expect(outside).to.deep.equal([]);
  });
});

describe('names confined to one file', () => {
  for (const { name, uses, file } of CONFINED)
    it(`have ${name} only in ${file}`, () => {
      const others = [...SRC, ...WORKERS].filter(({ path, code }) => path !== file && uses.test(code));
      expect(others.map(({ path }) => path)).to.deep.equal([]);
    });

  it('have timers and atomics in their own files', () => {
    const uses = (path: string, pattern: RegExp) =>
      pattern.test(SRC.find((f) => f.path === path)?.code ?? '');
    expect(uses('src/platform/platform.ts', /\bsetTimeout\b/)).to.equal(true);
    expect(uses('src/platform/shared-memory.ts', /\bAtomics\b/)).to.equal(true);
  });
});

describe('check of the floors', () => {
  it('reads every form of import, and ignores comments', () => {
    const text = [
      "import { a } from '../vfio/a.ts';",
      'import type {\n  B,\n  C,\n} from "./b.ts";',
      "export * from '#mem';",
      "import './side-effect.ts';",
      "const d = await import('../cli/d.ts');",
      "// import { x } from './x.ts';",
      "/* import { y } from './y.ts'; */",
      "const url = 'http://host/z'; export { url };",
    ].join('\n');
    expect(importsOf(text)).to.deep.equal([
      '../vfio/a.ts',
      './b.ts',
      '#mem',
      './side-effect.ts',
      '../cli/d.ts',
    ]);
  });

  it('finds imports of a higher floor, of the same floor, and of files outside src/', () => {
    const file = (path: string, target: string) => sourceFile(path, `import { x } from '${target}';`);
    const planted = [
      file('src/viommu/vtd/a.ts', '../../coordinator/vm.ts'),
      file('src/vfio/b.ts', '../device/dma.ts'),
      file('src/memory/c.ts', '../../workers/device.ts'),
      file('src/vfio/d.ts', '#mem'),
      file('src/vfio/e.ts', './f.ts'),
    ];
    expect(upwardImports(planted)).to.deep.equal([
      'src/viommu/vtd/a.ts → src/coordinator/vm.ts',
      'src/vfio/b.ts → src/device/dma.ts',
      'src/memory/c.ts → workers/device.ts',
    ]);
    const back = file('src/coordinator/vm.ts', '../viommu/viommu.ts');
    expect(cycleIn(folderGraph([...planted, back]))).to.deep.equal(['viommu', 'coordinator', 'viommu']);
  });

  it('finds a cycle of two files, also of type imports', () => {
    const planted = [
      sourceFile('src/vfio/a.ts', "import type { B } from './b.ts';"),
      sourceFile('src/vfio/b.ts', "import type { A } from './a.ts';"),
      sourceFile('src/vfio/c.ts', "import { a } from './a.ts';"),
    ];
    expect(cycleIn(fileGraph(planted))).to.deep.equal(['src/vfio/a.ts', 'src/vfio/b.ts', 'src/vfio/a.ts']);
    expect(cycleIn(fileGraph(planted.slice(1)))).to.equal(undefined);
  });
});
