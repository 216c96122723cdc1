/**
 * The recorder of a device's address-space strip. It measures the container at each switch and when it is asked for what
 * has happened since the last time, so that a map or unmap costs nothing.
 */
import { nowUs, wallMs } from '#host';
import { AddressSpaceStrip, type StripData } from '../../metrics/address-space-strip.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import type { AddressSpaceKind, CompletedSwitch, SwitchObserver } from '../../viommu/address-space.ts';

type ChangeMessage = FrameBodies['vmAddressSpaces']['devices'][number];

/** Maximum count of segments between two messages. */
const SEGMENTS_LIMIT = 64;

export class StripRecorder implements SwitchObserver {
  readonly #strip = new AddressSpaceStrip(SEGMENTS_LIMIT);
  readonly #container: { readonly mappedBytes: number };
  readonly #windowBytes: number;
  readonly #switched: (complete: CompletedSwitch) => void;
  #kind: AddressSpaceKind = 'blocked';
  #sinceUs = nowUs();
  /** Mapped bytes at {@link #sinceUs}. */
  #bytes = 0;

  /**
   * @param windowBytes size of the window of the BARs, which system memory has beside RAM and which is not counted
   * @param switched called after each switch has been recorded
   */
  constructor(
    container: { readonly mappedBytes: number },
    windowBytes = 0,
    switched: (complete: CompletedSwitch) => void = () => {},
  ) {
    this.#container = container;
    this.#windowBytes = windowBytes;
    this.#switched = switched;
  }

  begins(): void {
    this.#closeSegment();
  }

  /** While the old mappings go, and while the new ones come, half of them are mapped on average. */
  switched(complete: CompletedSwitch): void {
    const { from, to, startUs, removedUs, tookUs } = complete;
    const bytesBefore = this.#bytes;
    const bytesAfter = this.#mappedBytes(to);
    const replaced = removedUs > 0;
    if (replaced) this.#add(from, startUs, removedUs, bytesBefore / 2, 0);
    const came = replaced ? bytesAfter / 2 : (bytesBefore + bytesAfter) / 2;
    this.#add(to, startUs + removedUs, tookUs - removedUs, came, 1);
    this.#strip.addSwitch({ from, to, startUs, removedUs, tookUs, bytesBefore, bytesAfter });
    [this.#kind, this.#sinceUs, this.#bytes] = [to, startUs + tookUs, bytesAfter];
    this.#switched(complete);
  }

  /** Returns the strip since the last call, until now. */
  take(): StripData {
    this.#closeSegment();
    return this.#strip.take();
  }

  #closeSegment(): void {
    const [now, bytes] = [nowUs(), this.#mappedBytes(this.#kind)];
    this.#add(this.#kind, this.#sinceUs, now - this.#sinceUs, (this.#bytes + bytes) / 2, 0);
    [this.#sinceUs, this.#bytes] = [now, bytes];
  }

  #mappedBytes(kind: AddressSpaceKind): number {
    const window = kind === 'system' ? this.#windowBytes : 0;
    return Math.max(0, this.#container.mappedBytes - window);
  }

  #add(kind: AddressSpaceKind, startUs: number, us: number, bytes: number, switches: number): void {
    const [gpa, iova] = [kind === 'system', kind === 'iommu'];
    this.#strip.addSegment({
      startUs,
      us,
      gpaUs: gpa ? us : 0,
      gpaBytes: gpa ? bytes : 0,
      iovaUs: iova ? us : 0,
      iovaBytes: iova ? bytes : 0,
      switches,
    });
  }
}

/** Returns the message with the strips of a VM's devices since the last one, with times since 1970. */
export function stripsMessage(
  devices: readonly { readonly index: number; readonly strip: StripRecorder }[],
): FrameBodies['vmAddressSpaces'] {
  const toWall = wallMs() * 1000 - nowUs();
  return { devices: devices.map(({ index, strip }) => changeMessage(index, strip.take(), toWall)) };
}

function changeMessage(device: number, { segments, switches }: StripData, toWall: number): ChangeMessage {
  const at = ({ startUs, us }: { readonly startUs: number; readonly us: number }) => {
    const start = Math.round(startUs + toWall);
    // Rounded ends, so that neighbours still meet.
    return { startUs: start, us: Math.round(startUs + us + toWall) - start };
  };
  return {
    device,
    segments: segments.map((segment) => ({
      ...at(segment),
      gpaUs: Math.round(segment.gpaUs),
      gpaBytes: Math.round(segment.gpaBytes),
      iovaUs: Math.round(segment.iovaUs),
      iovaBytes: Math.round(segment.iovaBytes),
      switches: segment.switches,
    })),
    switches: switches.map((each) => ({
      ...each,
      startUs: Math.round(each.startUs + toWall),
      removedUs: Math.round(each.removedUs),
      tookUs: Math.round(each.tookUs),
    })),
  };
}
