/**
 * Bounds and redirects what a user's file prints: all of it goes to stderr, because stdout has the summary, and only so
 * much of it, because printed bytes go to the main thread through an unbounded queue.
 */
import { sleep } from '#host';

/** Maximum count of bytes that one worker prints; the rest is dropped. */
const OUTPUT_BYTES_LIMIT = 16 * 1024;

const CUT = '\nmdevsim: further output of this script is dropped\n';

type Write = typeof process.stderr.write;
type Written = (error?: Error | null) => void;

/** Longest wait of the end of a worker for the main thread to take the printed text. */
const FLUSH_LIMIT_MS = 10_000;

/**
 * Replaces the two streams' `write` in this thread. Returns a function that resolves when the main thread has taken all
 * that was printed, at the latest after FLUSH_LIMIT_MS: a thread that is terminated loses the rest.
 */
export function boundOutput(): () => Promise<void> {
  const stream = process.stderr;
  const write = stream.write.bind(stream);
  let printed: Promise<void> = Promise.resolve();
  const print = (bytes: string | Uint8Array): void => {
    printed = new Promise((resolve) => {
      write(bytes, () => resolve());
    });
  };
  let left = OUTPUT_BYTES_LIMIT;
  const bounded = (
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
  process.stdout.write = bounded as Write;
  process.stderr.write = bounded as Write;
  return () => Promise.race([printed, sleep(FLUSH_LIMIT_MS)]);
}

const textEncoding = (encoding: unknown): BufferEncoding =>
  typeof encoding === 'string' ? (encoding as BufferEncoding) : 'utf8';
