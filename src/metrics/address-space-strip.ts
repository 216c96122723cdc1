/**
 * The address-space strip of a device: how much of its container was identity-mapped (GPA) and how much translated (IOVA)
 * over time, in a bounded number of segments, and its first and last switches.
 */

/** A span of time. A container holds one kind at a time, so that both kinds appear only in a span with a switch. */
export interface StripSegment {
  readonly startUs: number;
  readonly us: number;
  /** Time with the identity map, and the mean of the bytes mapped within it. */
  readonly gpaUs: number;
  readonly gpaBytes: number;
  /** The same for translations. In the rest of the span nothing was mapped. */
  readonly iovaUs: number;
  readonly iovaBytes: number;
  /** Switches that have ended in the span. */
  readonly switches: number;
}

/** One switch of a device's address space. */
export interface StripSwitch {
  /** Kinds: `system` (GPA), `iommu` (IOVA) or `blocked`. */
  readonly from: string;
  readonly to: string;
  readonly startUs: number;
  /** Time until no device could use the old mappings; 0 if only what differs has changed. */
  readonly removedUs: number;
  readonly tookUs: number;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

/** A change of a strip, or a whole one. */
export interface StripData {
  readonly segments: readonly StripSegment[];
  readonly switches: readonly StripSwitch[];
}

/** Gap between neighbours that comes from two readings of the clock alone. */
const GAP_US = 1000;

/** Maximum count of first switches kept, and of last ones. */
export const SWITCHES_KEPT = 16;

export class AddressSpaceStrip {
  readonly #limit: number;
  #segments: StripSegment[] = [];
  readonly #first: StripSwitch[] = [];
  readonly #last: StripSwitch[] = [];

  /** @param limit maximum count of segments, at least 2; beyond it, the two shortest neighbours become one */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Adds what follows the strip so far. */
  add({ segments, switches }: StripData): void {
    for (const segment of segments) this.addSegment(segment);
    for (const each of switches) this.addSwitch(each);
  }

  addSegment(segment: StripSegment): void {
    const last = this.#segments.at(-1);
    if (last && isSame(last, segment)) this.#segments[this.#segments.length - 1] = continued(last, segment);
    else this.#segments.push(segment);
    if (this.#segments.length > this.#limit) this.#mergeShortest();
  }

  addSwitch(each: StripSwitch): void {
    if (this.#first.length < SWITCHES_KEPT) this.#first.push(each);
    else this.#last.push(each);
    if (this.#last.length > SWITCHES_KEPT) this.#last.shift();
  }

  get data(): StripData {
    return { segments: [...this.#segments], switches: [...this.#first, ...this.#last] };
  }

  /** Returns the strip and empties it. */
  take(): StripData {
    const { data } = this;
    this.#segments = [];
    this.#first.length = 0;
    this.#last.length = 0;
    return data;
  }

  #mergeShortest(): void {
    const all = this.#segments;
    let [shortest, least, before] = [0, Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
    for (let at = 0; at < all.length; at++) {
      const { us } = all[at] as StripSegment;
      if (before + us < least) [shortest, least] = [at - 1, before + us];
      before = us;
    }
    all.splice(shortest, 2, merged(all[shortest] as StripSegment, all[shortest + 1] as StripSegment));
  }
}

/** Returns the part of a strip that a report of many devices has room for. */
export function thinned(data: StripData, limit: number): StripData {
  const strip = new AddressSpaceStrip(Math.max(2, limit));
  strip.add(data);
  return strip.data;
}

/** True if a segment continues the one before it without a change. */
const isSame = (a: StripSegment, b: StripSegment): boolean =>
  b.switches === 0 &&
  isOneKind(a) &&
  isOneKind(b) &&
  a.startUs + a.us + GAP_US >= b.startUs &&
  a.gpaUs > 0 === b.gpaUs > 0 &&
  a.iovaUs > 0 === b.iovaUs > 0 &&
  a.gpaBytes === b.gpaBytes &&
  a.iovaBytes === b.iovaBytes;

const isOneKind = ({ us, gpaUs, iovaUs }: StripSegment): boolean =>
  (gpaUs === 0 || gpaUs === us) && (iovaUs === 0 || iovaUs === us);

/** Returns a segment with the one that continues it. */
function continued(a: StripSegment, b: StripSegment): StripSegment {
  const us = b.startUs + b.us - a.startUs;
  return { ...a, us, gpaUs: a.gpaUs > 0 ? us : 0, iovaUs: a.iovaUs > 0 ? us : 0 };
}

/** Returns two neighbours as one. A gap between them, as after a migration, belongs to it and has no mappings. */
function merged(a: StripSegment, b: StripSegment): StripSegment {
  const mean = (x: number, xUs: number, y: number, yUs: number) =>
    xUs + yUs === 0 ? 0 : (x * xUs + y * yUs) / (xUs + yUs);
  return {
    startUs: a.startUs,
    us: Math.max(a.us, b.startUs + b.us - a.startUs),
    gpaUs: a.gpaUs + b.gpaUs,
    gpaBytes: mean(a.gpaBytes, a.gpaUs, b.gpaBytes, b.gpaUs),
    iovaUs: a.iovaUs + b.iovaUs,
    iovaBytes: mean(a.iovaBytes, a.iovaUs, b.iovaBytes, b.iovaUs),
    switches: a.switches + b.switches,
  };
}
