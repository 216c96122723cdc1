/**
 * Entries of every device's directory: `uevent` and `power`.
 */
import { MdevError } from './errors.ts';
import { parseWord } from './parse.ts';
import { type DirNode, type FileNode, fixedDir, readOnly, readWrite, writeOnly } from './sysfs-node.ts';

/** Actions that `uevent` accepts (kobject_actions). */
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
  if (!UEVENT_ACTIONS.has(action))
    throw new MdevError('EINVAL', `unknown uevent action ${JSON.stringify(action)}`);
}

/** Returns a `uevent` file: readable for a device, write-only (without `read`) for a bus or a driver. */
export const ueventFile = (read?: () => string): FileNode =>
  read ? readWrite(read, sendUevent) : writeOnly(sendUevent);

/** Returns a power file. It accepts `words` without effect, because there is no power management. */
const powerFile = (value: string, words: readonly string[]): FileNode =>
  readWrite(
    () => `${value}\n`,
    (text) => {
      if (!words.includes(parseWord(text)))
        throw new MdevError('EINVAL', `power: ${JSON.stringify(text)}; accepted: ${words.join(', ')}`);
      return undefined;
    },
  );

const noAutosuspend = (): never => {
  throw new MdevError('EIO', 'the device uses no autosuspend');
};

/** The directory `power/` of a device without power management. */
export const powerDir: DirNode = fixedDir({
  async: powerFile('disabled', ['disabled', 'enabled']),
  autosuspend_delay_ms: readWrite(noAutosuspend, noAutosuspend),
  control: powerFile('auto', ['auto', 'on']),
  runtime_active_kids: readOnly(() => '0\n'),
  runtime_active_time: readOnly(() => '0\n'),
  runtime_enabled: readOnly(() => 'disabled\n'),
  runtime_status: readOnly(() => 'unsupported\n'),
  runtime_suspended_time: readOnly(() => '0\n'),
  runtime_usage: readOnly(() => '0\n'),
});
