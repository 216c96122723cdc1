/**
 * What every device's directory has: uevent and power.
 */
import { MdevError } from './errors.ts';
import { parseWord } from './parse.ts';
import { type DirNode, type FileNode, fixedDir, readOnly, readWrite, writeOnly } from './sysfs-node.ts';

/** Words that `uevent` takes (kobject_actions). */
const UEVENT_ACTIONS: ReadonlySet<string> = new Set([
  'add',
  'bind',
  'change',
  'move',
  'offline',
  'online',
  'remove',
  'unbind',
]);

function sendUevent(text: string): undefined {
  const action = parseWord(text);
  if (!UEVENT_ACTIONS.has(action)) throw new MdevError('EINVAL', `no uevent ${JSON.stringify(action)}`);
}

/** A device's `uevent` if `read` is given; a bus's or driver's, which cannot be read, otherwise. */
export const ueventFile = (read?: () => string): FileNode =>
  read ? readWrite(read, sendUevent) : writeOnly(sendUevent);

/** A word of a power file: taken if it is one of `words`, and without effect: there is no power to manage. */
const powerWord = (value: string, words: readonly string[]): FileNode =>
  readWrite(
    () => `${value}\n`,
    (text) => {
      if (!words.includes(parseWord(text)))
        throw new MdevError('EINVAL', `power: one of ${words.join(', ')}, not ${JSON.stringify(text)}`);
      return undefined;
    },
  );

const noAutosuspend = (): never => {
  throw new MdevError('EIO', 'the device uses no autosuspend');
};

/** `power/` of a device without power management. */
export const powerDir: DirNode = fixedDir({
  async: powerWord('disabled', ['disabled', 'enabled']),
  autosuspend_delay_ms: readWrite(noAutosuspend, noAutosuspend),
  control: powerWord('auto', ['auto', 'on']),
  runtime_active_kids: readOnly(() => '0\n'),
  runtime_active_time: readOnly(() => '0\n'),
  runtime_enabled: readOnly(() => 'disabled\n'),
  runtime_status: readOnly(() => 'unsupported\n'),
  runtime_suspended_time: readOnly(() => '0\n'),
  runtime_usage: readOnly(() => '0\n'),
});
