/**
 * The output `json`: the whole record of a run.
 */
import type { RunRecord } from '../record.ts';

/** Returns the record as JSON, without the sample of iterations, which is for timelines. */
export const recordJson = ({ iterations: _, ...record }: RunRecord): string => `${jsonText(record, '')}\n`;

const INDENT = '  ';

/** Maximum length of an object of plain values in one line. */
const LINE_LIMIT = 200;

/** Returns indented JSON in which a list of numbers is one line, and a short object of plain values, too. */
function jsonText(value: unknown, indent: string): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'null';
  const deeper = indent + INDENT;
  if (Array.isArray(value)) {
    if (value.every((item) => typeof item === 'number' || item === null)) return JSON.stringify(value);
    return `[\n${value.map((item) => deeper + jsonText(item, deeper)).join(',\n')}\n${indent}]`;
  }
  const fields = Object.entries(value).filter(([, field]) => field !== undefined);
  if (fields.every(([, field]) => typeof field !== 'object' || field === null)) {
    const line = JSON.stringify(value);
    if (line.length <= LINE_LIMIT) return line;
  }
  const lines = fields.map(([name, field]) => `${deeper}${JSON.stringify(name)}: ${jsonText(field, deeper)}`);
  return `{\n${lines.join(',\n')}\n${indent}}`;
}
