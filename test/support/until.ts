import { sleep } from '#host';

const POLL_MS = 10;
const DEFAULT_TIMEOUT_MS = 60_000;

/** Polls `holds` until it returns true. @throws Error after `timeoutMs` */
export async function until(
  holds: () => boolean,
  what: string,
  timeoutMs = DEFAULT_TIMEOUT_MS,
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`${what}: not within ${timeoutMs} ms`);
    await sleep(POLL_MS);
  }
}
