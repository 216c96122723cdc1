/**
 * Checks the files of an installed package: each relative link of its Markdown files leads to a file of the package, and
 * each file that package.json names exists. Prints what is missing.
 */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

const root = process.argv[2] ?? '.';
const text = (file: string): string => readFileSync(join(root, file), 'utf8');

/** Returns the targets of a Markdown file's relative links, without fragments. */
const linksOf = (file: string): string[] =>
  [...text(file).matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target]) => (target as string).split('#', 1)[0] as string)
    .filter((target) => target !== '' && !/^[a-z]+:/.test(target));

const broken = globSync('**/*.md', { cwd: root })
  .filter((file) => !file.includes('node_modules'))
  .flatMap((file) =>
    linksOf(file)
      .filter((target) => !existsSync(join(root, dirname(file), target)))
      .map((target) => `${file} links to ${target}`),
  );

/** Returns all files that a field of package.json names for users. Those of the condition `source` are the repository's. */
const filesIn = (field: unknown, name = ''): string[] => {
  if (typeof field === 'string') return name === 'source' ? [] : [field];
  return Object.entries(field ?? {}).flatMap(([key, value]) => filesIn(value, key));
};

const { bin, exports, imports } = JSON.parse(text('package.json')) as Record<string, unknown>;
const missing = [bin, exports, imports]
  .flatMap((field) => filesIn(field))
  .filter((file) => !existsSync(join(root, file)))
  .map((file) => `package.json names ${file}`);

const problems = [...broken, ...missing];
for (const problem of problems) process.stdout.write(`${problem}, which the package does not have\n`);
process.exitCode = problems.length === 0 ? 0 : 1;
