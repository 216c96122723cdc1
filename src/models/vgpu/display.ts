/**
 * The display engine: one scanout in VRAM, frames on the injected clock, and flips that take effect between two
 * frames.
 *
 * A write to a register of the mode checks the mode. An invalid mode switches the display off and sets a status bit.
 * While the display is off, no timer runs.
 */

import { PIXEL_BYTES, SCANOUT_SIDE_MAX, type Scanout, XRGB8888 } from '../../abi/scanout.ts';
import {
  DISPLAY_BAD_MODE,
  DISPLAY_BYTES_LIMIT,
  DISPLAY_ENABLE,
  DISPLAY_FLIP_PENDING,
  DISPLAY_HZ,
  DISPLAY_ON,
  INTERRUPT_FLIP,
  INTERRUPT_VBLANK,
  type VgpuRegister,
} from '../../abi/vgpu/vgpu.ts';
import type { DeviceMemory } from '../../device/memory.ts';
import type { DeviceTimers, StateReader, StateValues } from '../../device/model.ts';
import type { RegisterFile } from '../../registers/register-file.ts';

const FRAME_US = 1e6 / DISPLAY_HZ;

const MODE_REGISTERS = [
  'DisplayControl',
  'DisplayWidth',
  'DisplayHeight',
  'DisplayStride',
  'DisplayFormat',
] as const;

interface Mode {
  readonly width: number;
  readonly height: number;
  readonly stride: number;
}

export class Display {
  readonly #registers: RegisterFile<VgpuRegister>;
  readonly #vram: DeviceMemory;
  readonly #timers: DeviceTimers;
  readonly #interrupt: (cause: number) => void;
  /** Allocated when a picture is first taken, and reused. */
  #pixels = new Uint8Array(0);
  /** End of the current frame; undefined while the display is off. */
  #frameEndUs: number | undefined;
  #cancel = () => {};

  constructor(
    registers: RegisterFile<VgpuRegister>,
    vram: DeviceMemory,
    timers: DeviceTimers,
    interrupt: (cause: number) => void,
  ) {
    this.#registers = registers;
    this.#vram = vram;
    this.#timers = timers;
    this.#interrupt = interrupt;
    for (const name of MODE_REGISTERS) registers.onWrite(name, () => this.#setMode());
    registers.onWrite('DisplayBase', () => this.#flip());
  }

  /** Returns the displayed picture. Its pixels are valid until the next call. */
  scanout(): Scanout | undefined {
    const mode = this.#isOn ? this.#mode() : undefined;
    if (!mode) return undefined;
    const bytes = mode.stride * mode.height;
    if (this.#pixels.length !== bytes) this.#pixels = new Uint8Array(bytes);
    this.#vram.readInto(Number(this.#registers.get('DisplaySurface')), this.#pixels);
    return { ...mode, pixels: this.#pixels };
  }

  /** Called after the registers have been reset. */
  reset(): void {
    this.#stop();
    this.#pixels = new Uint8Array(0);
  }

  /** Returns the position in the frame. Everything else is in registers. */
  save(): StateValues {
    const leftUs = this.#frameEndUs === undefined ? 0 : this.#frameEndUs - this.#timers.nowUs();
    return { displayFrameLeftUs: Math.max(0, leftUs) };
  }

  /** @throws StateError */
  restore(state: StateReader): void {
    this.#stop();
    const leftUs = state.number('displayFrameLeftUs');
    if (leftUs < 0 || leftUs > FRAME_US + 1)
      throw state.error('displayFrameLeftUs', `is ${leftUs}; accepted: 0 to ${FRAME_US}`);
    if (!this.#isOn) return;
    if (!this.#mode() || !this.#fits(Number(this.#registers.get('DisplaySurface'))))
      throw state.error('DisplayStatus', 'is on, but the mode is invalid');
    this.#tickAt(this.#timers.nowUs() + leftUs);
  }

  get #isOn(): boolean {
    return (this.#registers.get32('DisplayStatus') & DISPLAY_ON) !== 0;
  }

  get #base(): number {
    return Number(this.#registers.get('DisplayBase'));
  }

  /** The mode in the registers, if it is valid. */
  #mode(): Mode | undefined {
    const word = (name: VgpuRegister) => this.#registers.get32(name);
    const [width, height, stride] = [word('DisplayWidth'), word('DisplayHeight'), word('DisplayStride')];
    const areSides = [width, height].every((side) => side >= 1 && side <= SCANOUT_SIDE_MAX);
    const isStride =
      stride % PIXEL_BYTES === 0 && stride >= width * PIXEL_BYTES && stride <= SCANOUT_SIDE_MAX * PIXEL_BYTES;
    const isPicture = areSides && isStride && stride * height <= DISPLAY_BYTES_LIMIT;
    return isPicture && word('DisplayFormat') === XRGB8888 ? { width, height, stride } : undefined;
  }

  /** Returns true if a picture of the mode at `base` lies within VRAM. */
  #fits(base: number): boolean {
    const mode = this.#mode();
    return mode !== undefined && base + mode.stride * mode.height <= this.#vram.size;
  }

  #setMode(): void {
    if ((this.#registers.get32('DisplayControl') & DISPLAY_ENABLE) === 0) this.#turn(0);
    else if (!this.#fits(this.#base)) this.#turn(DISPLAY_BAD_MODE);
    else {
      this.#show();
      this.#turn(DISPLAY_ON);
    }
  }

  /**
   * A flip of a display that is on waits for the end of the frame. A base beyond VRAM is treated like an invalid
   * mode.
   */
  #flip(): void {
    if (!this.#isOn || !this.#fits(this.#base)) this.#setMode();
    else this.#setStatus(DISPLAY_ON | DISPLAY_FLIP_PENDING);
  }

  #turn(status: number): void {
    this.#setStatus(status);
    if (status !== DISPLAY_ON) this.#stop();
    else if (this.#frameEndUs === undefined) this.#tickAt(this.#timers.nowUs() + FRAME_US);
  }

  #show(): void {
    this.#registers.set('DisplaySurface', this.#registers.get('DisplayBase'));
  }

  #setStatus(status: number): void {
    this.#registers.set('DisplayStatus', BigInt(status));
  }

  #stop(): void {
    this.#cancel();
    this.#frameEndUs = undefined;
  }

  #tickAt(endUs: number): void {
    this.#frameEndUs = endUs;
    this.#cancel = this.#timers.after(Math.max(0, endUs - this.#timers.nowUs()), () => this.#endFrame(endUs));
  }

  /** Ends one frame, and the frames that passed while the thread was busy. */
  #endFrame(endUs: number): void {
    const missed = Math.max(0, Math.floor((this.#timers.nowUs() - endUs) / FRAME_US));
    const frame = this.#registers.get32('DisplayFrame') + 1 + missed;
    this.#registers.set('DisplayFrame', BigInt(frame % 2 ** 32));
    const flips = (this.#registers.get32('DisplayStatus') & DISPLAY_FLIP_PENDING) !== 0;
    if (flips) {
      this.#show();
      this.#setStatus(DISPLAY_ON);
    }
    this.#tickAt(endUs + (1 + missed) * FRAME_US);
    this.#interrupt(flips ? INTERRUPT_VBLANK | INTERRUPT_FLIP : INTERRUPT_VBLANK);
  }
}
