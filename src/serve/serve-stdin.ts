/**
 * `mdevsim serve --socket -`: one device of a built-in model, its client's bytes on stdin and the replies on stdout.
 */
import { readSync, writeSync } from 'node:fs';
import { MODELS } from '../models/index.ts';
import { counted } from '../report/text.ts';
import { waitReadable } from '../vfio-user/linux.ts';
import { serveStream } from '../vfio-user/serve-stream.ts';
import { ServedDevice } from '../vfio-user/served-device.ts';

const STDIN = 0;
const STDOUT = 1;
/** Longest wait of one call. */
const WAIT_MS = 500;

/** Serves until the end of stdin. Resolves to true if nothing is left and no contract was broken. */
export async function serveStdin(model: string, print: (line: string) => void): Promise<boolean> {
  const factory = MODELS[model];
  if (!factory) {
    print(`no built-in model '${model}'; accepted: ${Object.keys(MODELS).join(', ')}`);
    return false;
  }
  const device = new ServedDevice({ name: model, model }, factory);
  const { commands, errors, reason } = await serveStream(device, {
    read: (target) => {
      while (waitReadable([STDIN], WAIT_MS) === 0);
      return readSync(STDIN, target);
    },
    write: (bytes) => {
      for (let done = 0; done < bytes.length; ) done += writeSync(STDOUT, bytes, done);
    },
  });
  const { violations, violationCount, dma } = device;
  print(`${counted(commands, 'command')}, ${counted(errors, 'error')}; ${reason}`);
  for (const text of violations) print(`VIOLATION ${text}`);
  const isClean = violationCount === 0 && dma.liveMaps === 0 && device.instance.dma.heldPins === 0;
  device.close();
  return isClean;
}
