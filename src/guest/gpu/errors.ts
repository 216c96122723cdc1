/**
 * What a vgpu's guest driver throws.
 */

/** The device's worker has failed or its link is down: it answers no more. */
export class DeviceLostError extends Error {
  readonly device: string;
  constructor(device: string) {
    super(`${device} is lost`);
    this.name = 'DeviceLostError';
    this.device = device;
  }
}

/** The engine has stopped: its ring or completions could not be reached. */
export class DeviceHaltedError extends Error {
  constructor(device: string) {
    super(`${device} halted: its ring or completion area cannot be reached`);
    this.name = 'DeviceHaltedError';
  }
}

/** The function was reset while the command was under way: whether it has done its work is not known. */
export class DeviceResetError extends Error {
  constructor(device: string, sequence: number) {
    super(`${device} was reset before command ${sequence} completed`);
    this.name = 'DeviceResetError';
  }
}

/** A command had no completion in time. */
export class CommandTimeoutError extends Error {
  constructor(device: string, sequence: number, timeoutMs: number) {
    super(`${device} did not complete command ${sequence} within ${timeoutMs} ms`);
    this.name = 'CommandTimeoutError';
  }
}
