/**
 * Parses JSON from a user's file. Its size alone does not bound the memory that it takes: a byte can be an object.
 */

/** Maximum depth of lists and objects in each other. */
const JSON_DEPTH_LIMIT = 64;
/** Maximum count of values. The largest recorded vectors have about 150 thousand. */
const JSON_VALUES_LIMIT = 1_000_000;

const [QUOTE, BACKSLASH, COMMA] = ['"', '\\', ','].map((character) => character.charCodeAt(0));
const OPENING: ReadonlySet<number> = new Set(['[', '{'].map((character) => character.charCodeAt(0)));
const CLOSING: ReadonlySet<number> = new Set([']', '}'].map((character) => character.charCodeAt(0)));

/** @throws SyntaxError for text that is not JSON; RangeError beyond a limit */
export function parseBoundedJson(bytes: Buffer, valuesLimit = JSON_VALUES_LIMIT): unknown {
  checkLimits(bytes, valuesLimit);
  return JSON.parse(bytes.toString('utf8')) as unknown;
}

/** Counts brackets and commas outside of strings. @throws RangeError */
function checkLimits(bytes: Buffer, valuesLimit: number): void {
  let [depth, values] = [0, 0];
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at] as number;
    if (byte === QUOTE) at = endOfString(bytes, at);
    else if (byte === COMMA) values++;
    else if (OPENING.has(byte)) {
      values++;
      if (++depth > JSON_DEPTH_LIMIT)
        throw new RangeError(`nested too deeply; accepted: up to ${JSON_DEPTH_LIMIT} lists and objects`);
    } else if (CLOSING.has(byte)) depth--;
    if (values > valuesLimit) throw new RangeError(`too many values; accepted: up to ${valuesLimit}`);
  }
}

/** Returns the index of the quote that ends the string which begins at `start`, or the end of the text. */
function endOfString(bytes: Buffer, start: number): number {
  let at = start + 1;
  while (at < bytes.length && bytes[at] !== QUOTE) at += bytes[at] === BACKSLASH ? 2 : 1;
  return at;
}
