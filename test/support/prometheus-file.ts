/**
 * A strict parser of Prometheus' text exposition format 0.0.4, written from its specification.
 */

interface PrometheusSample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface PrometheusFamily {
  readonly name: string;
  readonly type: string;
  readonly help: string;
  readonly samples: PrometheusSample[];
}

const NAME = '[a-zA-Z_:][a-zA-Z0-9_:]*';
const SAMPLE = new RegExp(`^(${NAME})(?:\\{(.*)\\})? (\\S+)$`, 's');
const LABEL = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)/;

/** Returns the families of a file. @throws Error naming the first line that is not valid */
export function parsePrometheus(text: string): Map<string, PrometheusFamily> {
  if (!text.endsWith('\n')) throw new Error('no line end at the end');
  const families = new Map<string, PrometheusFamily>();
  const series = new Set<string>();
  let help: readonly [name: string, text: string] | undefined;
  let family: PrometheusFamily | undefined;
  for (const line of text.slice(0, -1).split('\n')) {
    const [, helpName, helpText] = new RegExp(`^# HELP (${NAME}) (.*)$`).exec(line) ?? [];
    const [, typeName, type] =
      new RegExp(`^# TYPE (${NAME}) (counter|gauge|histogram|summary|untyped)$`).exec(line) ?? [];
    if (helpName !== undefined) help = [helpName, helpText ?? ''];
    else if (typeName !== undefined && type !== undefined) {
      if (help?.[0] !== typeName) throw new Error(`TYPE without HELP: ${line}`);
      if (families.has(typeName)) throw new Error(`a second family ${typeName}`);
      family = { name: typeName, type, help: help[1], samples: [] };
      families.set(typeName, family);
    } else {
      const sample = sampleOf(line);
      if (!family || !belongs(family, sample.name)) throw new Error(`not of its family: ${line}`);
      const key = `${sample.name} ${JSON.stringify(Object.entries(sample.labels).sort())}`;
      if (series.has(key)) throw new Error(`a second time: ${line}`);
      series.add(key);
      family.samples.push(sample);
    }
  }
  for (const each of families.values()) if (each.type === 'histogram') checkHistogram(each);
  return families;
}

const belongs = ({ name, type }: PrometheusFamily, sample: string): boolean =>
  type === 'histogram'
    ? [`${name}_bucket`, `${name}_sum`, `${name}_count`].includes(sample)
    : sample === name;

function sampleOf(line: string): PrometheusSample {
  const [, name, list, number] = SAMPLE.exec(line) ?? [];
  const value = number === '+Inf' ? Number.POSITIVE_INFINITY : Number(number);
  if (name === undefined || Number.isNaN(value)) throw new Error(`not a sample: ${line}`);
  const labels: Record<string, string> = {};
  let rest = list ?? '';
  while (rest !== '') {
    const match = LABEL.exec(rest);
    const [whole, label, text] = match ?? [];
    if (whole === undefined || label === undefined || text === undefined)
      throw new Error(`not a label: ${rest}`);
    if (label in labels) throw new Error(`a second label ${label}: ${line}`);
    labels[label] = text.replace(/\\(.)/g, (_, c: string) => (c === 'n' ? '\n' : c));
    rest = rest.slice(whole.length);
  }
  return { name, labels, value };
}

/** Checks that each histogram's buckets ascend to +Inf, which has the count. @throws Error */
function checkHistogram({ name, samples }: PrometheusFamily): void {
  const keyOf = ({ labels: { le: _, ...labels } }: PrometheusSample) => JSON.stringify(labels);
  for (const [key, all] of Map.groupBy(samples, keyOf)) {
    const buckets = all.filter((sample) => sample.name === `${name}_bucket`);
    const edges = buckets.map(({ labels }) => (labels.le === '+Inf' ? Infinity : Number(labels.le)));
    const counts = buckets.map(({ value }) => value);
    const ascends = (list: readonly number[], strictly: boolean) =>
      list.every((value, i) => {
        const before = list[i - 1] ?? Number.NEGATIVE_INFINITY;
        return strictly ? value > before : value >= before;
      });
    const count = all.find((sample) => sample.name === `${name}_count`)?.value;
    const sum = all.find((sample) => sample.name === `${name}_sum`)?.value;
    if (!ascends(edges, true) || !ascends(counts, false) || edges.at(-1) !== Number.POSITIVE_INFINITY)
      throw new Error(`buckets of ${name} ${key}: ${edges} have ${counts}`);
    if (count === undefined || sum === undefined || counts.at(-1) !== count)
      throw new Error(`sum or count of ${name} ${key}`);
  }
}
