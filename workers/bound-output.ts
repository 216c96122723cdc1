/**
 * Bounds and redirects what a user's file prints: all of it goes to stderr, because stdout has the summary, and only so
 * much of it, because printed bytes go to the main thread through an unbounded queue.
 */

/** Maximum count of bytes that one worker prints; the rest is dropped. */
const OUTPUT_BYTES_LIMIT = 16 * 1024;

const CUT = '\nmdevsim: further output of this script is dropped\n';

type Write = typeof process.stderr.write;
type Written = (error?: Error | null) => void;

/** Replaces the two streams' `write` in this thread. */
export function boundOutput(): void {
  const print = process.stderr.write.bind(process.stderr);
  let left = OUTPUT_BYTES_LIMIT;
  const write = (
    chunk: string | Uint8Array,
    encoding?: BufferEncoding | Written,
    done?: Written,
  ): boolean => {
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk, textEncoding(encoding)) : chunk;
    if (left > 0) {
      print(bytes.subarray(0, left));
      left -= bytes.length;
      if (left <= 0) print(CUT);
    }
    const callback = typeof encoding === 'function' ? encoding : done;
    if (callback) queueMicrotask(() => callback());
    return true;
  };
  process.stdout.write = write as Write;
  process.stderr.write = write as Write;
}

const textEncoding = (encoding: unknown): BufferEncoding =>
  typeof encoding === 'string' ? (encoding as BufferEncoding) : 'utf8';
