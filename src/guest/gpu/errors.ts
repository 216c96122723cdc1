/**
 * Errors of a vgpu's guest driver.
 */

/** Thrown when the device is lost: its worker has failed or its link is down. */
export class DeviceLostError extends Error {
  /** Name of the device. */
  readonly device: string;
  constructor(device: string) {
    super(`${device} is lost`);
    this.name = 'DeviceLostError';
    this.device = device;
  }
}

/** Thrown when an engine has halted because it could not reach its ring or its completions. */
export class DeviceHaltedError extends Error {
  constructor(device: string) {
    super(`${device} halted: its ring or completion area cannot be reached`);
    this.name = 'DeviceHaltedError';
  }
}

/** Thrown for a command in flight during a reset of the function; its work may be done or not. */
export class DeviceResetError extends Error {
  constructor(device: string, sequence: number) {
    super(`${device} was reset before command ${sequence} completed`);
    this.name = 'DeviceResetError';
  }
}

/** Thrown for a command without a completion in time. */
export class CommandTimeoutError extends Error {
  constructor(device: string, sequence: number, timeoutMs: number) {
    super(`${device} did not complete command ${sequence} within ${timeoutMs} ms`);
    this.name = 'CommandTimeoutError';
  }
}
