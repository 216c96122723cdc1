/**
 * QEMU guests of the tests: a machine with a served device behind, and its console.
 *
 * The machine is the one of make-machine.sh in $MDEVSIM_QEMU_DIR, or $QEMU with the files $KERNEL and $INITRD.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, relative } from 'node:path';
import { after } from '#host';

/** Time limit of a guest. */
const GUEST_TIMEOUT_MS = 150_000;
/** Most characters of a console that are kept. */
const CONSOLE_LIMIT = 200_000;

/** A QEMU with the files of a guest. */
export interface QemuMachine {
  /** The command that starts QEMU. */
  readonly command: readonly string[];
  readonly kernel: string;
  readonly initrd: string;
  /** The folder for sockets, and its path as QEMU sees it. */
  readonly sockets: string;
  readonly pathInside: (path: string) => string;
}

const ROOT_SOCKETS = 'run/mdevsim';

/** Returns the machine, or the reason why it is missing. */
export function findMachine(): QemuMachine | string {
  const { QEMU, KERNEL, INITRD, MDEVSIM_QEMU_DIR } = process.env;
  if (QEMU && KERNEL && INITRD)
    return { command: [QEMU], kernel: KERNEL, initrd: INITRD, sockets: '/tmp', pathInside: (path) => path };
  const folder = MDEVSIM_QEMU_DIR ?? join(homedir(), '.cache', 'mdevsim', 'qemu');
  if (!existsSync(join(folder, 'ready')) || !existsSync(join(folder, 'initrd')))
    return `no QEMU >= 10.1: run test/qemu/make-machine.sh and make-initrd.sh with ${folder}, or set QEMU, KERNEL and INITRD`;
  if (process.getuid?.() !== 0) return `the root in ${folder} needs chroot, and so root`;
  const root = join(folder, 'root');
  const sockets = join(root, ROOT_SOCKETS);
  mkdirSync(sockets, { recursive: true, mode: 0o700 });
  for (const name of ['vmlinuz', 'initrd']) copyFileSync(join(folder, name), join(root, 'boot', name));
  return {
    command: ['chroot', root, 'qemu-system-x86_64'],
    kernel: '/boot/vmlinuz',
    initrd: '/boot/initrd',
    sockets,
    pathInside: (path) => `/${relative(root, path)}`,
  };
}

/** A guest to boot. */
export interface GuestRun {
  /** Sockets of its devices. */
  readonly sockets: readonly string[];
  /** Commands of the guest, with + for spaces. */
  readonly run: string;
  /** Kernel arguments. */
  readonly append?: string;
  /** Arguments of -machine behind the type and memory. */
  readonly machine?: string;
  readonly devices?: readonly string[];
  /** The guest may reboot; by default QEMU ends then. */
  readonly reboots?: boolean;
  /** QEMU's object of the guest's memory, by default a shared memory file. */
  readonly memory?: string;
}

/** Returns QEMU's description of a served device. */
export const vfioUserDevice = (machine: QemuMachine, socket: string): Record<string, unknown> => ({
  driver: 'vfio-user-pci',
  socket: { type: 'unix', path: machine.pathInside(socket) },
});

/** A guest that runs, and its console. */
export class Guest {
  /** The console so far. */
  text = '';
  /** Resolves to the console when QEMU has ended. Rejects after GUEST_TIMEOUT_MS. */
  readonly ended: Promise<string>;
  readonly #child: ChildProcess;
  /** The console behind the last match. */
  #unread = '';
  #waiting: () => void = () => {};
  #hasEnded = false;

  private constructor(child: ChildProcess) {
    this.#child = child;
    const add = (data: Buffer) => {
      const more = data.toString().replaceAll('\r', '');
      this.text = (this.text + more).slice(-CONSOLE_LIMIT);
      this.#unread = (this.#unread + more).slice(-CONSOLE_LIMIT);
      this.#waiting();
    };
    child.stdout?.on('data', add);
    child.stderr?.on('data', add);
    this.ended = new Promise((resolve, reject) => {
      const cancel = after(GUEST_TIMEOUT_MS, () => {
        this.kill();
        reject(
          new Error(`the guest has not ended within ${GUEST_TIMEOUT_MS} ms:\n${this.text.slice(-2000)}`),
        );
      });
      child.once('error', reject);
      child.once('exit', () => {
        cancel();
        this.#hasEnded = true;
        this.#waiting();
        resolve(this.text);
      });
    });
    // A guest that nobody waits for is killed by its test.
    this.ended.catch(() => {});
  }

  static start(machine: QemuMachine, guest: GuestRun, more: readonly string[] = []): Guest {
    const [command, ...first] = machine.command;
    const child = spawn(command!, [...first, ...qemuArguments(machine, guest), ...more], {
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    return new Guest(child);
  }

  /**
   * Waits until the console has `pattern` behind the previous match, and returns the match.
   * @throws Error if the guest ends before
   */
  async until(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const found = pattern.exec(this.#unread);
      if (found) {
        this.#unread = this.#unread.slice(found.index + found[0].length);
        return found;
      }
      if (this.#hasEnded) throw new Error(`the guest ended before ${pattern}:\n${this.text.slice(-2000)}`);
      await Promise.race([
        this.ended,
        new Promise<void>((resolve) => {
          this.#waiting = resolve;
        }),
      ]);
    }
  }

  /** Types a line at the console. */
  type(line: string): void {
    this.#child.stdin?.write(`${line}\n`);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }
}

/** Boots a guest, and resolves to its console when it has powered off. @throws Error after GUEST_TIMEOUT_MS */
export const bootGuest = (machine: QemuMachine, guest: GuestRun): Promise<string> =>
  Guest.start(machine, guest).ended;

function qemuArguments(machine: QemuMachine, guest: GuestRun): string[] {
  const { append = '', machine: options = '', devices = [], reboots = false } = guest;
  const { memory = 'memory-backend-memfd,share=on' } = guest;
  const boards = [
    ...devices,
    ...guest.sockets.map((socket) => JSON.stringify(vfioUserDevice(machine, socket))),
  ];
  return [
    ...['-accel', 'tcg', '-m', '256M', '-smp', '1', '-nodefaults', '-no-user-config', '-display', 'none'],
    ...['-serial', 'stdio', ...(reboots ? [] : ['-no-reboot'])],
    ...['-kernel', machine.kernel, '-initrd', machine.initrd],
    ...['-append', `console=ttyS0 quiet panic=-1 no_timer_check ${append} run=${guest.run}`],
    ...['-machine', `q35,memory-backend=m0${options}`, '-object', `${memory},id=m0,size=256M`],
    ...boards.flatMap((text) => ['-device', text]),
  ];
}
