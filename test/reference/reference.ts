/**
 * The text of docs/reference.md, made of the zod schema, the catalogue of metrics, the exit codes and the declared
 * commands.
 */
import type { Command, Option } from 'commander';
import { program } from '../../src/cli/main.ts';
import { WORKLOADS } from '../../src/load/workload-names.ts';
import { METRICS } from '../../src/metrics/catalogue.ts';
import { AGGREGATIONS, OPERATORS } from '../../src/metrics/threshold.ts';
import { DURATION_PATTERN, type Unit } from '../../src/metrics/units.ts';
import { EXIT_MEANINGS, ExitCode } from '../../src/report/summary.ts';
import { type JsonSchema, scenarioJsonSchema } from '../../src/scenario/json-schema.ts';

const UNITS: Readonly<Record<Unit, string>> = {
  time: 'time',
  bytes: 'size',
  ratio: 'part of 1',
  count: 'count',
};

/** Returns the page. */
export function referenceText(): string {
  const schema = scenarioJsonSchema();
  const sections = [
    head(),
    ...settingSections(schema),
    ...stageSections(schema),
    ...thresholdSections(schema),
    ...metricSections(),
    ...workloadSections(),
    ...exitSections(),
    ...commandSections(),
  ];
  return `${sections.join('\n\n')}\n`;
}

const head = (): string => `# Reference

Settings, metrics, exit codes and commands. \`npm run docs\` writes this page from the code, and a test compares it.
[load.md](load.md) explains the settings by examples; \`npx mdevsim schema\` prints them as a JSON Schema for editors.`;

/** Returns a table. */
const table = (heads: readonly string[], rows: readonly (readonly string[])[]): string =>
  [
    `| ${heads.join(' | ')} |`,
    `|${heads.map(() => '---').join('|')}|`,
    ...rows.map((row) => `| ${row.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`),
  ].join('\n');

const code = (text: string): string => `\`${text}\``;

/** Returns the rows of the settings of an object. */
function settingRows({ properties = {}, required = [] }: JsonSchema): string[][] {
  return Object.entries(properties)
    .filter(([name, { const: fixed }]) => name !== '$schema' && fixed === undefined)
    .map(([name, setting]) => [
      code(name),
      setting.description ?? '',
      acceptedText(setting),
      required.includes(name) ? 'required' : defaultText(setting),
    ]);
}

const settingsTable = (schema: JsonSchema): string =>
  table(['setting', 'meaning', 'accepted', 'default'], settingRows(schema));

function defaultText({ default: value }: JsonSchema): string {
  if (value === undefined) return '';
  return typeof value === 'object' ? code(JSON.stringify(value)) : code(value === '' ? "''" : String(value));
}

/** Returns what a setting accepts. */
function acceptedText(schema: JsonSchema): string {
  const { type, enum: names, pattern, items, anyOf, propertyNames } = schema;
  if (names) return names.map((name) => code(String(name))).join(', ');
  if (pattern === DURATION_PATTERN) return 'duration, up to `24h`';
  if (anyOf) return anyOf.map(acceptedText).join('; or ');
  if (type === 'integer' || type === 'number') return numberText(schema);
  if (type === 'boolean') return '`true`, `false`';
  if (type === 'array')
    return items?.properties ? 'list, below' : `list of ${acceptedText(items ?? {}) || 'values'}`;
  if (type === 'object') return propertyNames?.enum ? 'weights by name' : 'settings by name';
  return type === 'string' ? textText(schema) : '';
}

function numberText({ type, minimum, maximum, multipleOf }: JsonSchema): string {
  const multiple = multipleOf === undefined ? '' : `, a multiple of ${multipleOf}`;
  return `${type === 'integer' ? '' : 'number '}${minimum} to ${maximum}${multiple}`;
}

const textText = ({ minLength = 0, maxLength }: JsonSchema): string =>
  maxLength === undefined ? 'text' : `text of ${minLength} to ${maxLength} characters`;

/** Returns the schema of the values of an object with any names. */
function valuesOf({ additionalProperties }: JsonSchema = {}): JsonSchema {
  return typeof additionalProperties === 'object' ? additionalProperties : {};
}

function settingSections({ properties = {}, ...rest }: JsonSchema): string[] {
  const group = valuesOf(properties.groups);
  const events = properties.events?.items;
  return [
    '## Scenario',
    'The command line overrides some of them for one run. A script has these settings and its functions.',
    settingsTable({ ...rest, properties }),
    'A duration is one or more numbers with `us`, `ms`, `s`, `m` or `h`: `250us`, `20ms`, `1m30s`.',
    '### gpu',
    settingsTable(properties.gpu ?? {}),
    '### groups',
    'By name: up to 32 letters, digits, `_` and `-`, a letter at the start.',
    settingsTable(group),
    '#### boot',
    settingsTable(group.properties?.boot ?? {}),
    ...(events ? ['### events', 'Entries of the list:', settingsTable(events)] : []),
  ];
}

function stageSections({ properties = {} }: JsonSchema): string[] {
  const shapes = valuesOf(properties.load).oneOf ?? [];
  const [first = {}] = shapes;
  const isCommon = (name: string) =>
    name !== 'executor' && shapes.every((shape) => name in (shape.properties ?? {}));
  const part = (shape: JsonSchema, wanted: (name: string) => boolean): JsonSchema => ({
    ...shape,
    properties: Object.fromEntries(Object.entries(shape.properties ?? {}).filter(([name]) => wanted(name))),
  });
  return [
    '## Stages of load',
    'By name, as groups. `executor` is required and decides on the other options. Options of every stage:',
    settingsTable(part(first, isCommon)),
    'A mix of workloads has their weights: `{ copy: 3, dma-churn: 1 }`.',
    ...shapes.flatMap((shape) => {
      const ramp = shape.properties?.stages?.items;
      return [
        `### ${String(shape.properties?.executor?.const)}`,
        settingsTable(part(shape, (name) => !isCommon(name))),
        ...(ramp ? ['Entries of `stages`:', settingsTable(ramp)] : []),
      ];
    }),
  ];
}

function thresholdSections({ properties = {} }: JsonSchema): string[] {
  const list = valuesOf(properties.thresholds).items?.anyOf ?? [];
  const object = list.find((each) => each.properties) ?? {};
  return [
    '## Thresholds',
    'A list of conditions for each metric or selector. A condition is an aggregation, a comparison and a value:\n' +
      '`p(99)<20ms`, `count==0`, `max<4MiB`, `p(95)<5ms over 10s`. An entry is a condition, or an object:',
    settingsTable(object),
    `Comparisons: ${Object.keys(OPERATORS).map(code).join(', ')}. Aggregations:`,
    table(
      ['type', 'aggregations'],
      Object.entries(AGGREGATIONS).map(([type, names]) => [type, names.map(code).join(', ')]),
    ),
  ];
}

const metricSections = (): string[] => [
  '## Metrics',
  table(
    ['metric', 'type', 'unit', 'meaning'],
    Object.entries(METRICS).map(([name, { type, unit, meaning }]) => [
      code(name),
      type,
      UNITS[unit],
      meaning,
    ]),
  ),
];

const workloadSections = (): string[] => [
  '## Workloads',
  table(
    ['workload', 'one iteration', 'needs'],
    Object.entries(WORKLOADS).map(([name, { meaning, translation, lazy }]) => [
      `[${code(name)}](workloads/${name}.md)`,
      meaning,
      lazy ? '`iommu: lazy`' : translation ? 'a vIOMMU; `iommu: strict` or `lazy`' : '',
    ]),
  ),
];

const exitSections = (): string[] => [
  '## Exit codes',
  'A run that deserves several codes ends with the one that is furthest down.',
  table(
    ['code', 'meaning'],
    Object.entries(EXIT_MEANINGS).map(([name, meaning]) => [
      String(ExitCode[name as keyof typeof ExitCode]),
      meaning,
    ]),
  ),
];

function commandSections(): string[] {
  const { commands } = program();
  return [
    '## Commands',
    table(
      ['command', 'purpose'],
      commands.map((command) => [code(`mdevsim ${command.name()}`), command.description()]),
    ),
    ...commands.filter(({ options }) => options.length > 0).flatMap(commandSection),
  ];
}

const commandSection = (command: Command): string[] => [
  `### ${command.name()}`,
  code(`mdevsim ${command.name()} ${command.usage()}`),
  table(
    ['option', 'meaning', 'default'],
    command.options.map((option) => [code(option.flags), optionText(option), optionDefault(option)]),
  ),
];

const optionText = ({ description, argChoices }: Option): string =>
  argChoices ? `${description}: ${argChoices.map(code).join(', ')}` : description;

function optionDefault({ defaultValue, defaultValueDescription, mandatory }: Option): string {
  if (mandatory) return 'required';
  if (defaultValueDescription !== undefined) return defaultValueDescription;
  return defaultValue === undefined ? '' : code(String(defaultValue));
}
