/**
 * The output `junit`: XML as CI systems read it. Each threshold is a test case, and so is each way in which a run can be
 * wrong. Some case fails exactly if the exit code is not 0.
 */
import type { Verdict } from '../../metrics/threshold-judge.ts';
import type { RunRecord } from '../record.ts';
import { counted } from '../text.ts';

/** Maximum count of problems in the text of a test case. */
const PROBLEMS_LIMIT = 100;

interface TestCase {
  readonly suite: 'run' | 'thresholds';
  readonly name: string;
  /** `failure` for a contract or threshold that does not hold, `error` for what has kept the run from showing it. */
  readonly kind?: 'failure' | 'error';
  readonly type?: string;
  readonly message?: string;
  readonly text?: string;
}

/** Returns the verdict on a run as JUnit XML. */
export function recordJunit(record: RunRecord): string {
  const { scenario, wallSeconds } = record;
  const cases = [...runCases(record), ...record.load.thresholds.map(thresholdCase)];
  const counts = {
    tests: cases.length,
    failures: cases.filter(({ kind }) => kind === 'failure').length,
    errors: cases.filter(({ kind }) => kind === 'error').length,
  };
  const time = wallSeconds.toFixed(3);
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    `<testsuites${attributes({ name: 'mdevsim', ...counts, time })}>`,
    `  <testsuite${attributes({ name: scenario, ...counts, skipped: 0, time, timestamp: record.startedAt.slice(0, 19) })}>`,
    '    <properties>',
    ...properties(record),
    '    </properties>',
    ...cases.flatMap((testCase) => caseLines(scenario, testCase)),
    '  </testsuite>',
    '</testsuites>',
    '',
  ].join('\n');
}

function runCases(record: RunRecord): TestCase[] {
  const { problems, results, verdict, load } = record;
  // The texts that the summary has for errors of scripts and of the scenario's events.
  const scripts = new Set([
    ...results.flatMap(({ vm, scriptError }) =>
      scriptError === '' ? [] : `VM ${vm} script: ${scriptError}`,
    ),
    ...load.events.flatMap(({ seconds, action, error }) =>
      error === '' ? [] : `event at ${seconds} s, ${action}: ${error}`,
    ),
  ]);
  const wrong = problems.filter((problem) => !scripts.has(problem));
  const interrupted = verdict === 'interrupted' ? ['the run was interrupted before its end'] : [];
  return [
    runCase('no violation, wrong byte, unannounced fault, lost device or VM', 'failure', 'failed', wrong),
    runCase('scripts and events end without an error', 'error', 'script error', [...scripts]),
    runCase('the run is not interrupted', 'error', 'interrupted', interrupted),
  ];
}

function runCase(
  name: string,
  kind: 'failure' | 'error',
  type: string,
  problems: readonly string[],
): TestCase {
  const [first] = problems;
  if (first === undefined) return { suite: 'run', name };
  const more = problems.length - PROBLEMS_LIMIT;
  const lines = problems.slice(0, PROBLEMS_LIMIT);
  if (more > 0) lines.push(`and ${counted(more, 'more problem')}`);
  return { suite: 'run', name, kind, type, message: first, text: lines.join('\n') };
}

function thresholdCase({ metric, condition, ok, text, implied }: Verdict): TestCase {
  const name = `${metric} ${condition}`;
  if (ok) return { suite: 'thresholds', name };
  const message = `${name}: ${text}${implied ? ' (missed rate)' : ''}`;
  return { suite: 'thresholds', name, kind: 'failure', type: 'threshold', message, text: message };
}

function caseLines(scenario: string, { suite, name, kind, type, message, text }: TestCase): string[] {
  const open = `    <testcase${attributes({ classname: `${scenario}.${suite}`, name, time: '0.000' })}`;
  if (kind === undefined) return [`${open}/>`];
  const result = `      <${kind}${attributes({ message: message ?? '', type: type ?? kind })}>${escaped(text ?? '')}</${kind}>`;
  return [`${open}>`, result, '    </testcase>'];
}

const properties = ({ program, command, seed, question, exitCode, load }: RunRecord): string[] =>
  Object.entries({ program, command, seed, question, exitCode, clockSeconds: load.seconds })
    .filter(([, value]) => value !== '')
    .map(([name, value]) => `      <property${attributes({ name, value })}/>`);

const attributes = (values: Readonly<Record<string, string | number>>): string =>
  Object.entries(values)
    .map(([name, value]) => ` ${name}="${escaped(String(value)).replace(/[\t\n\r]/g, entityOf)}"`)
    .join('');

/** Characters that XML 1.0 cannot hold, not even as entities. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the ones to replace
const FORBIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g;

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };

/** Returns a text for XML; characters that XML cannot hold stay visible as \uXXXX. */
const escaped = (text: string): string =>
  text
    .toWellFormed()
    .replace(FORBIDDEN, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`)
    .replace(/[&<>"]/g, (character) => ENTITIES[character] as string);

const entityOf = (character: string): string => `&#${character.charCodeAt(0)};`;
