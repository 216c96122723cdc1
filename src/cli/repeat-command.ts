/**
 * The command line that repeats a run, for its record.
 */

/** Options of `run` that determine what it does. */
interface RepeatedFlags {
  readonly vms?: number;
  readonly vgpus?: number;
  readonly ram?: number;
  readonly viommu?: string;
  readonly processes: number;
  readonly timeout?: number;
  readonly model?: string;
  readonly deviceTimeout?: number;
  readonly param: Readonly<Record<string, unknown>>;
  readonly inject: string;
}

/** Returns the command line for a shell. @param seed undefined if none was drawn */
export function repeatCommand(path: string, flags: RepeatedFlags, seed: number | undefined): string {
  const { vms, vgpus, ram, viommu, processes, timeout, model, deviceTimeout, inject } = flags;
  const options = {
    seed,
    vms,
    vgpus,
    ram,
    viommu,
    model,
    processes: processes === 1 ? undefined : processes,
    timeout,
    'device-timeout': deviceTimeout,
    inject: inject === '' ? undefined : inject,
  };
  const words = Object.entries(options).flatMap(([name, value]) =>
    value === undefined ? [] : [`--${name}`, String(value)],
  );
  const params = Object.entries(flags.param).flatMap(([name, value]) => [
    '-p',
    `${name}=${JSON.stringify(value)}`,
  ]);
  return ['mdevsim', 'run', path, ...words, ...params].map(quoted).join(' ');
}

/** Returns a word as a POSIX shell needs it. */
const quoted = (word: string): string =>
  /^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`;
