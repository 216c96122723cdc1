import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { describe, it } from 'mocha';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** The floors of src/, from the bottom up: a folder imports only from floors below its own. */
const FLOORS: readonly (readonly string[])[] = [
  ['platform', 'proto'],
  ['memory', 'mdev'],
  ['channel', 'registers', 'pin-table'],
  ['pci', 'gpu', 'vfio'],
  ['abi'],
  ['virtio', 'report'],
  ['guest', 'viommu', 'device'],
  ['models', 'coordinator'],
  ['scenario', 'conformance'],
  ['cli'],
];

/** Where the names of package.json's `imports` live. */
const ALIASES: Readonly<Record<string, string>> = {
  '#mem': 'src/platform/shared-memory.ts',
  '#host': 'src/platform/platform.ts',
};

/** What a device model may know of the sources. */
const MODEL_IMPORTS = ['device', 'gpu', 'abi', 'pci', 'registers', 'memory'];

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
  { name: 'Atomics', uses: /\bAtomics\b/, file: 'src/platform/shared-memory.ts' },
];

/** Source text without its comments. */
const withoutComments = (text: string): string =>
  text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|[\s;{}(,])\/\/.*$/gm, '$1');

/** The module specifiers that a source text imports or re-exports, `import()` included. */
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
  /** From the repository's root, with forward slashes. */
  readonly path: string;
  readonly code: string;
  /** Files of the repository that it imports. */
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

/** `guest` for src/guest/x.ts; undefined for src/index.ts and for what is not in src/. */
const folderOf = (path: string): string | undefined => /^src\/([^/]+)\//.exec(path)?.[1];
const floorOf = (folder: string): number => FLOORS.findIndex((floor) => floor.includes(folder));

/** Every import that does not go down, as `from → to`. */
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

/** A cycle of `next`, as the list of its nodes, or undefined. */
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

/** Every file of the sources with the files that it imports, imports of types alone included. */
const fileGraph = (files: readonly SourceFile[]): Map<string, Set<string>> =>
  new Map(files.map(({ path, imports }) => [path, new Set(imports)]));

const SRC = sources('src');
const WORKERS = sources('workers');

describe('the floors of the repository', () => {
  it('gives every folder of src/ a place', () => {
    const folders = new Set(SRC.map(({ path }) => folderOf(path)).filter((folder) => folder !== undefined));
    expect([...folders].filter((folder) => floorOf(folder) < 0)).to.deep.equal([]);
    expect(folders.size).to.be.greaterThan(5);
  });

  it('lets every import go down', () => {
    expect(upwardImports(SRC)).to.deep.equal([]);
  });

  it('has no cycle between folders', () => {
    expect(cycleIn(folderGraph(SRC))).to.equal(undefined);
  });

  it('has no cycle between files', () => {
    expect(cycleIn(fileGraph([...SRC, ...WORKERS]))).to.equal(undefined);
  });

  it('imports no file that does not exist', () => {
    const known = new Set([...SRC, ...WORKERS].map(({ path }) => path));
    const missing = [...SRC, ...WORKERS].flatMap(({ path, imports }) =>
      imports.filter((target) => !known.has(target)).map((target) => `${path} → ${target}`),
    );
    expect(missing).to.deep.equal([]);
  });

  it('keeps src/ from importing workers/', () => {
    const upward = SRC.filter(({ imports }) => imports.some((target) => target.startsWith('workers/')));
    expect(upward.map(({ path }) => path)).to.deep.equal([]);
  });

  it('keeps the vIOMMUs from knowing the container', () => {
    expect(folderGraph(SRC).get('viommu')).to.not.include('vfio');
  });

  it(`lets device models know ${MODEL_IMPORTS.join(', ')} alone`, () => {
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

describe('what only one file may touch', () => {
  for (const { name, uses, file } of CONFINED)
    it(`${name} appears in ${file} alone`, () => {
      const others = [...SRC, ...WORKERS].filter(({ path, code }) => path !== file && uses.test(code));
      expect(others.map(({ path }) => path)).to.deep.equal([]);
    });

  it('and the file of the timers, and that of the atomics, do use them', () => {
    const uses = (path: string, pattern: RegExp) =>
      pattern.test(SRC.find((f) => f.path === path)?.code ?? '');
    expect(uses('src/platform/platform.ts', /\bsetTimeout\b/)).to.equal(true);
    expect(uses('src/platform/shared-memory.ts', /\bAtomics\b/)).to.equal(true);
  });
});

describe('the check of the floors itself', () => {
  it('reads every form of import, and no comment', () => {
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

  it('finds an import that goes up, one that stays on its floor, and one that leaves src/', () => {
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

  it('finds a cycle of two files, also one of types alone', () => {
    const planted = [
      sourceFile('src/vfio/a.ts', "import type { B } from './b.ts';"),
      sourceFile('src/vfio/b.ts', "import type { A } from './a.ts';"),
      sourceFile('src/vfio/c.ts', "import { a } from './a.ts';"),
    ];
    expect(cycleIn(fileGraph(planted))).to.deep.equal(['src/vfio/a.ts', 'src/vfio/b.ts', 'src/vfio/a.ts']);
    expect(cycleIn(fileGraph(planted.slice(1)))).to.equal(undefined);
  });
});
