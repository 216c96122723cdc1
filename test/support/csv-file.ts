/**
 * A strict parser of CSV with a header line (RFC 4180).
 */

/** Returns the rows by column. @throws Error for lines of another length, and for text that is not CSV */
export function parseCsv(text: string): Record<string, string>[] {
  const [header = [], ...rows] = linesOf(text);
  return rows.map((row, i) => {
    if (row.length !== header.length)
      throw new Error(`line ${i + 2} has ${row.length} fields, the header ${header.length}`);
    return Object.fromEntries(header.map((name, at) => [name, row[at] as string]));
  });
}

function linesOf(text: string): string[][] {
  const lines: string[][] = [];
  let line: string[] = [];
  const field = /("(?:[^"]|"")*"|[^",\r\n]*)(,|\r\n)/y;
  while (field.lastIndex < text.length) {
    const at = field.lastIndex;
    const match = field.exec(text);
    if (!match) throw new Error(`no field at ${at}: ${JSON.stringify(text.slice(at, at + 40))}`);
    const [, value = '', end] = match;
    line.push(value.startsWith('"') ? value.slice(1, -1).replaceAll('""', '"') : value);
    if (end === ',') continue;
    lines.push(line);
    line = [];
  }
  return lines;
}
