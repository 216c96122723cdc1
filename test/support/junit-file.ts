/**
 * Reads JUnit files strictly: by a parser, a schema of every element, and xmllint with an XSD where it is installed.
 */
import { spawnSync } from 'node:child_process';
import { XMLParser, XMLValidator } from 'fast-xml-parser';
import { z } from 'zod';

const SCHEMA = 'test/data/outputs/junit.xsd';

const count = z.string().regex(/^\d+$/).transform(Number);
const time = z.string().regex(/^\d+\.\d{3}$/);
const text = z.string().min(1);
const result = z.strictObject({ message: z.string(), type: text, '#text': z.string().default('') });
const testCase = z
  .strictObject({
    classname: text,
    name: text,
    time,
    failure: z.array(result).length(1).optional(),
    error: z.array(result).length(1).optional(),
  })
  .refine(({ failure, error }) => !(failure && error), 'both failure and error');
const suite = z.strictObject({
  name: text,
  tests: count,
  failures: count,
  errors: count,
  skipped: count,
  time,
  timestamp: z.string().regex(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$/),
  properties: z
    .array(z.strictObject({ property: z.array(z.strictObject({ name: text, value: z.string() })) }))
    .length(1),
  testcase: z.array(testCase),
});
const suites = z.strictObject({
  name: text,
  tests: count,
  failures: count,
  errors: count,
  time,
  testsuite: z.array(suite).length(1),
});

type JunitSuite = z.infer<typeof suite>;

const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '',
  parseTagValue: false,
  parseAttributeValue: false,
  trimValues: false,
  isArray: (_name, path, _isLeaf, isAttribute) => !isAttribute && String(path).includes('.'),
  // Line ends between elements are no content.
  tagValueProcessor: (_name, value) => (value.trim() === '' ? '' : value),
  htmlEntities: true,
});

/** Returns the suite of a file. @throws Error for anything that the schema does not know */
export function parseJunit(xml: string): JunitSuite {
  const valid = XMLValidator.validate(xml);
  if (valid !== true) throw new Error(`${valid.err.msg} at line ${valid.err.line}`);
  const { '?xml': _, ...document } = parser.parse(xml) as Record<string, unknown>;
  const all = z.strictObject({ testsuites: suites }).parse(document).testsuites;
  const [only] = all.testsuite as [JunitSuite];
  const cases = only.testcase;
  const counts = [cases.length, cases.filter((c) => c.failure).length, cases.filter((c) => c.error).length];
  for (const counted of [all, only])
    if (String([counted.tests, counted.failures, counted.errors]) !== String(counts))
      throw new Error(`counts ${counted.tests} ${counted.failures} ${counted.errors} of cases ${counts}`);
  return only;
}

/** Returns xmllint's complaints, empty for a valid file; undefined where xmllint is not installed. */
export function xmllint(xml: string): string | undefined {
  const { error, status, stderr } = spawnSync('xmllint', ['--noout', '--schema', SCHEMA, '-'], {
    input: xml,
    encoding: 'utf8',
  });
  if (error) return undefined;
  return status === 0 ? '' : stderr;
}
