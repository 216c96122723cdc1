/**
 * A schedule as a table: one column for each thread, one line for each step.
 */
import type { RunResult, TraceStep } from './model/run.ts';
import { STEP_NAMES, StepKind } from './model/step.ts';

/** Widest column. */
const COLUMN_LIMIT = 46;

/** Returns a step as text: its site, its operation with the operands, and the value that it returned. */
function stepText({ step, value, stale, slept }: TraceStep): string {
  const { kind, site, a, b, lo, index } = step;
  const name = STEP_NAMES[kind];
  const at = `w${lo}`;
  const found = `${String(value)}${stale ? ' (stale)' : ''}`;
  switch (kind) {
    case StepKind.start:
      return 'start';
    case StepKind.resume:
      return `${site} woken${value === false ? ', time is over' : ''}`;
    case StepKind.rd:
    case StepKind.ld:
      return `${site} ${name} ${at} = ${found}`;
    case StepKind.wr:
    case StepKind.st:
      return `${site} ${name} ${at} := ${a}`;
    case StepKind.cas:
      return `${site} cas ${at} ${a} → ${b}: ${found}`;
    case StepKind.wait:
    case StepKind.waitAsync:
      return `${site} wait ${at} while ${a}${slept ? ' (sleeps)' : ''}`;
    case StepKind.fill:
      return `${site} fill ${at} +${b} := ${a}`;
    case StepKind.read:
    case StepKind.write:
      return `${site} ${name} ${a} bytes at ${index}`;
    case StepKind.wake:
      return `${site} wake ${at}`;
    case StepKind.yield:
    case StepKind.sleep:
    case StepKind.join:
      return `${site}${slept ? ' (sleeps)' : ''}`;
    default:
      return `${site} ${name} ${at}, ${a}: ${found}`;
  }
}

const cut = (text: string): string =>
  text.length <= COLUMN_LIMIT ? text : `${text.slice(0, COLUMN_LIMIT - 1)}…`;

/** Returns the table of a traced schedule, with the broken rule below it. */
export function scheduleTable({ threads, trace, violation }: RunResult): string {
  const rows = trace.map((step) => ({ thread: step.thread, text: cut(stepText(step)) }));
  const used = threads.map((_, thread) => rows.some((row) => row.thread === thread));
  const widths = threads.map((name, thread) =>
    Math.max(name.length, ...rows.filter((row) => row.thread === thread).map(({ text }) => text.length)),
  );
  const line = (cell: (thread: number) => string): string =>
    threads
      .map((_, thread) => (used[thread] ? cell(thread).padEnd(widths[thread] as number) : undefined))
      .filter((text) => text !== undefined)
      .join(' │ ')
      .trimEnd();
  const numbers = String(rows.length).length;
  const lines = [
    `${' '.repeat(numbers)} │ ${line((thread) => threads[thread] as string)}`,
    `${'─'.repeat(numbers)}─┼─${threads
      .flatMap((_, thread) => (used[thread] ? ['─'.repeat(widths[thread] as number)] : []))
      .join('─┼─')}`,
    ...rows.map(
      ({ thread, text }, i) =>
        `${String(i + 1).padStart(numbers)} │ ${line((column) => (column === thread ? text : ''))}`,
    ),
  ];
  if (violation) {
    const who = violation.thread === undefined ? '' : ` (${violation.thread})`;
    lines.push(`✗ ${violation.rule}${who}: ${violation.message}`);
  }
  return lines.join('\n');
}
