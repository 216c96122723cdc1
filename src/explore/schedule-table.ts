/**
 * A schedule as a table: one column for each thread, one line for each step.
 */
import type { RunResult, TraceStep } from './model/run.ts';
import { changes, STEP_NAMES, StepKind } from './model/step.ts';

/** Widest column. */
const COLUMN_LIMIT = 46;

/** Returns a step as text: its site, its operation with the operands, and the value that it returned. */
export function stepText({ step, value, stale, slept }: TraceStep): string {
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

/** One line of the table. `number` is that of its step; undefined for folded steps. */
interface Row {
  readonly thread: number;
  readonly number: number | undefined;
  readonly text: string;
}

/** Returns the locations that several threads access, and at least one of them changes. */
function sharedPlaces(trace: readonly TraceStep[]): Set<number> {
  const users = new Map<number, { readonly threads: Set<number>; changed: boolean }>();
  for (const { thread, step } of trace)
    for (let at = step.lo; at < step.hi; at++) {
      const place = users.get(at) ?? { threads: new Set(), changed: false };
      users.set(at, place);
      place.threads.add(thread);
      place.changed ||= changes(step);
    }
  return new Set(
    [...users].filter(([, { threads, changed }]) => changed && threads.size > 1).map(([at]) => at),
  );
}

/** Returns the lines. Runs of steps that no other thread notices are folded, unless `whole`. */
function rowsOf(trace: readonly TraceStep[], whole: boolean): Row[] {
  const shared = sharedPlaces(trace);
  const rows: Row[] = [];
  let folded = 0;
  const unfold = (thread: number): void => {
    if (folded > 0)
      rows.push({ thread, number: undefined, text: `… ${folded} step${folded > 1 ? 's' : ''}` });
    folded = 0;
  };
  for (const [i, traced] of trace.entries()) {
    const { thread, step, slept, stale } = traced;
    const [before, next] = [trace[i - 1]?.thread, trace[i + 1]?.thread];
    if (before !== undefined && before !== thread) unfold(before);
    let noticed = whole || slept || stale || step.kind < StepKind.rd || next === undefined;
    for (let at = step.lo; at < step.hi && !noticed; at++) noticed = shared.has(at);
    if (!noticed) {
      folded++;
      continue;
    }
    unfold(thread);
    rows.push({ thread, number: i + 1, text: cut(stepText(traced)) });
  }
  return rows;
}

/**
 * Returns the table of a traced schedule, with the broken rule below it. Steps that no other thread can notice are
 * folded, unless `whole`.
 */
export function scheduleTable({ threads, trace, violation }: RunResult, whole = false): string {
  const rows = rowsOf(trace, whole);
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
  const numbers = String(trace.length).length;
  const rules = threads.flatMap((_, thread) => (used[thread] ? ['─'.repeat(widths[thread] as number)] : []));
  const lines = [
    `${' '.repeat(numbers)} │ ${line((thread) => threads[thread] as string)}`,
    `${'─'.repeat(numbers)}─┼─${rules.join('─┼─')}`,
    ...rows.map(
      ({ thread, number, text }) =>
        `${String(number ?? '').padStart(numbers)} │ ${line((column) => (column === thread ? text : ''))}`,
    ),
  ];
  if (violation) {
    const by = violation.thread === undefined ? '' : ` (${violation.thread})`;
    lines.push(`✗ ${violation.rule}${by}: ${violation.message}`);
  }
  return lines.join('\n');
}
