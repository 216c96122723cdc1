/**
 * A terminal of a fixed size, as far as the progress of a run uses one: text, line feeds, cursor movements, erasures.
 */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these begin sequences
const SEQUENCE = /^\u001b\[(\??)([\d;]*)([A-Za-z])/;

export class Terminal {
  readonly #columns: number;
  readonly #rows: number;
  #lines: string[][] = [[]];
  #row = 0;
  #column = 0;
  /** Count of lines that have left the screen at its top. */
  scrolled = 0;
  /** Sequences that this terminal does not know. */
  readonly unknown: string[] = [];

  constructor(columns: number, rows: number) {
    this.#columns = columns;
    this.#rows = rows;
  }

  /** The lines of the screen, without spaces at their ends. */
  get screen(): string[] {
    return this.#lines.map((line) =>
      Array.from(line, (character) => character ?? ' ')
        .join('')
        .trimEnd(),
    );
  }

  write(text: string): void {
    let rest = text;
    while (rest !== '') {
      const sequence = SEQUENCE.exec(rest);
      if (sequence) this.#control(sequence);
      else this.#put(String.fromCodePoint(rest.codePointAt(0) as number));
      rest = rest.slice(sequence?.[0].length ?? ((rest.codePointAt(0) as number) > 0xffff ? 2 : 1));
    }
  }

  #put(character: string): void {
    if (character === '\n') this.#lineFeed();
    else if (character === '\r') this.#column = 0;
    else {
      if (this.#column === this.#columns) {
        this.#column = 0;
        this.#lineFeed();
      }
      (this.#lines[this.#row] as string[])[this.#column++] = character;
    }
  }

  #lineFeed(): void {
    this.#row++;
    if (this.#row === this.#rows) {
      this.#row--;
      this.#lines.shift();
      this.scrolled++;
    }
    this.#lines[this.#row] ??= [];
  }

  #control([sequence, isPrivate, numbers, letter]: RegExpExecArray): void {
    const count = Number(numbers) || 1;
    if (isPrivate || letter === 'm') return; // modes and colours
    const line = this.#lines[this.#row] as string[];
    if (letter === 'A') this.#row = Math.max(0, this.#row - count);
    else if (letter === 'B') this.#row = Math.min(this.#lines.length - 1, this.#row + count);
    else if (letter === 'G') this.#column = count - 1;
    else if (letter === 'K' && numbers === '2') line.length = 0;
    else if (letter === 'K' && (numbers === '' || numbers === '0'))
      line.length = Math.min(line.length, this.#column);
    else this.unknown.push(JSON.stringify(sequence));
  }
}
