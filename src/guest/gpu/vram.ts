/**
 * VRAM and display of a vgpu for its guest driver: VRAM through the aperture, modes and flips through registers.
 */

import { nowUs } from '#host';
import { PIXEL_BYTES, XRGB8888 } from '../../abi/scanout.ts';
import * as vgpu from '../../abi/vgpu/vgpu.ts';
import type { DeviceLink } from '../../channel/device-link.ts';
import type { MmioPort } from '../../channel/mmio-channel.ts';
import { hex } from '../../memory/address.ts';
import type { InFlight } from '../in-flight.ts';
import { Mutex } from '../mutex.ts';

/** Longest interval between two polls for the end of a flip, and time limit of a flip. */
const FLIP_POLL_MS = 50;
const FLIP_TIMEOUT_MS = 2000;

/** Access to the device's registers. */
export interface GpuRegisters {
  readonly name: string;
  writeRegister(register: vgpu.VgpuRegister, value: number): void | Promise<void>;
  readRegister(register: vgpu.VgpuRegister): Promise<number>;
}

/** VRAM of a vgpu, through the aperture. */
export class GpuVram {
  readonly #registers: GpuRegisters;
  readonly #mmio: MmioPort;
  readonly #inFlight: InFlight;
  /** Held while the aperture is moved and used: there is only one. */
  readonly #aperture = new Mutex();

  constructor(registers: GpuRegisters, mmio: MmioPort, inFlight: InFlight) {
    this.#registers = registers;
    this.#mmio = mmio;
    this.#inFlight = inFlight;
  }

  /** Resolves to the size of VRAM in bytes. */
  size(): Promise<number> {
    return this.#registers.readRegister('VramSize');
  }

  /** Writes bytes to VRAM through the aperture. @throws RangeError beyond the size of VRAM */
  write(offset: number, bytes: Uint8Array): Promise<void> {
    return this.#inFlight.run('vram.write', () =>
      this.#through(offset, bytes.length, (at, done, length) =>
        this.#mmio.writeBlock(vgpu.APERTURE_BAR, at, bytes.subarray(done, done + length)),
      ),
    );
  }

  /** Reads bytes of VRAM through the aperture. @throws RangeError beyond the size of VRAM */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    await this.#inFlight.run('vram.read', () =>
      this.#through(offset, length, (at, done, piece) =>
        this.#mmio.readBlock(vgpu.APERTURE_BAR, at, bytes.subarray(done, done + piece)),
      ),
    );
    return bytes;
  }

  #through(
    offset: number,
    length: number,
    move: (at: number, done: number, length: number) => Promise<void>,
  ): Promise<void> {
    return this.#aperture.run(async () => {
      const size = await this.size();
      if (!(offset >= 0 && length >= 0 && offset + length <= size))
        throw new RangeError(
          `${this.#registers.name} VRAM ${hex(offset)} +${length}; accepted: within ${hex(size)} bytes`,
        );
      for (let done = 0; done < length; ) {
        const at = (offset + done) % vgpu.APERTURE_BYTES;
        await this.#registers.writeRegister('ApertureBase', offset + done - at);
        const piece = Math.min(length - done, vgpu.APERTURE_BYTES - at);
        await move(at, done, piece);
        done += piece;
      }
    });
  }
}

/** A display mode; the pixels are XRGB8888 in VRAM. */
export interface GpuMode {
  /** Pixels, 1 to 4096. */
  readonly width: number;
  readonly height: number;
  /** Bytes from line to line, a multiple of 4. Default: 4 × width. */
  readonly stride?: number;
  /** Offset in VRAM of the first pixel, a multiple of 4096. */
  readonly base: number;
}

/** The display of a vgpu. */
export class GpuDisplay {
  readonly #registers: GpuRegisters;
  readonly #link: DeviceLink;
  readonly #inFlight: InFlight;

  constructor(registers: GpuRegisters, link: DeviceLink, inFlight: InFlight) {
    this.#registers = registers;
    this.#link = link;
    this.#inFlight = inFlight;
  }

  /** Sets a mode and enables the display. @throws RangeError for a mode that the device refuses */
  show(mode: GpuMode): Promise<void> {
    return this.#inFlight.run('display.show', () => this.#show(mode));
  }

  async #show({ width, height, stride = width * PIXEL_BYTES, base }: GpuMode): Promise<void> {
    const set = (register: vgpu.VgpuRegister, value: number) =>
      this.#registers.writeRegister(register, value);
    await set('DisplayControl', 0);
    await set('DisplayWidth', width);
    await set('DisplayHeight', height);
    await set('DisplayStride', stride);
    await set('DisplayFormat', XRGB8888);
    await set('DisplayBase', base);
    await set('InterruptMask', vgpu.INTERRUPT_VBLANK);
    await set('DisplayControl', vgpu.DISPLAY_ENABLE);
    if ((await this.#status()) & vgpu.DISPLAY_ON) return;
    throw new RangeError(
      `${this.#registers.name} does not display ${width} × ${height}, stride ${stride}, at VRAM ${hex(base)}; ` +
        `accepted: a picture of up to ${vgpu.DISPLAY_BYTES_LIMIT} bytes within VRAM`,
    );
  }

  /**
   * Flips to the picture at VRAM offset `base`; resolves when the next frame shows it.
   * @throws RangeError for an invalid base or a disabled display, Error after 2 s
   */
  flip(base: number): Promise<void> {
    return this.#inFlight.run('display.flip', () => this.#flip(base));
  }

  async #flip(base: number): Promise<void> {
    await this.#registers.writeRegister('DisplayBase', base);
    // Interrupts of other commands end a wait, too: polls are not a measure of time.
    for (const endUs = nowUs() + FLIP_TIMEOUT_MS * 1000; nowUs() < endUs; ) {
      const { events } = this.#link;
      const status = await this.#status();
      if ((status & vgpu.DISPLAY_ON) === 0)
        throw new RangeError(
          `${this.#registers.name} shows nothing at VRAM ${hex(base)}: beyond its VRAM, or off`,
        );
      if ((status & vgpu.DISPLAY_FLIP_PENDING) === 0) return;
      await this.#link.waitEvents(events, FLIP_POLL_MS);
    }
    throw new Error(`${this.#registers.name} did not flip within ${FLIP_TIMEOUT_MS} ms`);
  }

  /** Disables the display. */
  async off(): Promise<void> {
    await this.#registers.writeRegister('DisplayControl', 0);
  }

  /** Resolves to the count of frames, modulo 2^32. */
  frames(): Promise<number> {
    return this.#registers.readRegister('DisplayFrame');
  }

  #status(): Promise<number> {
    return this.#registers.readRegister('DisplayStatus');
  }
}
