/**
 * virtio-iommu fuzz case: valid and nearly valid requests, chains, rings, registers and configuration.
 */
import * as virtio from '../../src/abi/virtio.ts';
import * as format from '../../src/abi/virtio-iommu.ts';
import { attachRequest } from '../../src/guest/iommu/virtio/requests.ts';
import { VirtioIommu } from '../../src/viommu/virtio/iommu.ts';
import { type FuzzProgram, runProgram, type Step } from './case.ts';
import { DEVICES, hold, PAGE, type World } from './rig.ts';

const RINGS = [16 * PAGE, 20 * PAGE];
const AVAIL = PAGE;
const USED = 2 * PAGE;
const BUFFERS = 24 * PAGE;
const BUFFER_BYTES = 256;
const BUFFER_SLOTS = 64;
const INDIRECT = 40 * PAGE;
const ENTRIES = 64;
const STEPS = 40;
const MAPPING_LIMIT = 96;
const DOMAINS = [1, 1, 1, 1, 1, 0, 2, 0xffff_ffff];
const TYPES = [
  format.T_ATTACH,
  format.T_DETACH,
  format.T_MAP,
  format.T_MAP,
  format.T_MAP,
  format.T_UNMAP,
  format.T_PROBE,
];
const REQUEST_BYTES: Readonly<Record<number, number>> = {
  [format.T_ATTACH]: format.ATTACH_BYTES,
  [format.T_DETACH]: format.DETACH_BYTES,
  [format.T_MAP]: format.MAP_BYTES,
  [format.T_UNMAP]: format.UNMAP_BYTES,
  [format.T_PROBE]: format.PROBE_BYTES,
};
const LIVE_STATUS =
  virtio.STATUS_ACKNOWLEDGE | virtio.STATUS_DRIVER | virtio.STATUS_FEATURES_OK | virtio.STATUS_DRIVER_OK;

export const virtioCase = (world: World): Promise<void> => runProgram(world, new VirtioCase(world));

class VirtioCase implements FuzzProgram {
  readonly #world: World;
  readonly iommu: VirtioIommu;
  /** Count of available entries, by queue. */
  readonly #offered = [0, 0];
  #slot = 0;

  constructor(world: World) {
    const { draw } = world;
    this.#world = world;
    const options = {
      awBits: draw.one([32, 39, 48, 64]),
      granule: draw.one([PAGE, PAGE, 2 * PAGE]),
      bootBypass: draw.chance(50),
      quirks: draw.chance(70) ? 'spec' : 'qemu',
      mappingLimit: MAPPING_LIMIT,
      probeSize: draw.one([0, 24, 512]),
      functions: [0x0300],
    } as const;
    this.iommu = world.make((given) => new VirtioIommu({ ...options, ...given }));
  }

  readonly stepLimit = STEPS;
  readonly startSteps: readonly Step[] = [() => this.#start(), () => this.#attachAll()];
  readonly steps: readonly Step[] = [
    () => this.#request(),
    () => this.#request(),
    () => this.#request(),
    () => this.#request(),
    () => this.#requests(),
    () => this.#requests(),
    () => this.#postEvent(),
    () => this.#access(),
    () => this.#access(),
    () => this.#damage(),
    () => this.#writeAny(),
    () => this.#writeBypass(),
    () => this.#restart(),
  ];

  #start(): void {
    const { draw } = this.#world;
    this.#word(virtio.STATUS_REG, virtio.STATUS_ACKNOWLEDGE | virtio.STATUS_DRIVER);
    const features = draw.chance(80) ? format.OFFERED_FEATURES & ~virtio.F_EVENT_IDX : draw.wide();
    for (const half of [0, 1]) {
      this.#word(virtio.DRIVER_FEATURES_SEL_REG, half);
      this.#word(virtio.DRIVER_FEATURES_REG, Number((features >> BigInt(32 * half)) & 0xffff_ffffn));
    }
    this.#word(virtio.STATUS_REG, LIVE_STATUS & ~virtio.STATUS_DRIVER_OK);
    for (const queue of [0, 1]) this.#setUp(queue);
    this.#word(virtio.STATUS_REG, LIVE_STATUS);
  }

  #setUp(queue: number): void {
    const { draw, guest } = this.#world;
    const ring = RINGS[queue] as number;
    for (let at = 0; at < 3 * PAGE; at += 4) if (at >= PAGE) guest.write32(ring + at, 0);
    this.#offered[queue] = 0;
    this.#word(virtio.QUEUE_SEL_REG, queue);
    this.#word(virtio.QUEUE_SIZE_REG, draw.chance(95) ? ENTRIES : draw.word());
    for (const [register, at] of [
      [virtio.QUEUE_DESC_LOW_REG, ring],
      [virtio.QUEUE_DRIVER_LOW_REG, ring + AVAIL],
      [virtio.QUEUE_DEVICE_LOW_REG, ring + USED],
    ] as const) {
      this.#word(register, draw.chance(98) ? at : draw.word());
      this.#word(register + 4, draw.chance(98) ? 0 : draw.word());
    }
    this.#word(virtio.QUEUE_READY_REG, 1);
  }

  #restart(): void {
    if (this.#world.draw.chance(50)) return;
    if (this.#world.draw.chance(80)) this.#word(virtio.STATUS_REG, 0);
    else this.#world.track(this.iommu.systemReset());
    this.#start();
    this.#attachAll();
  }

  #attachAll(): void {
    for (const id of DEVICES) this.#offer(0, this.#describe(attachRequest(1, id, 0)));
    this.#word(virtio.QUEUE_NOTIFY_REG, 0);
  }

  #request(): void {
    this.#offer(0, this.#describe(this.#bytes()));
    this.#word(virtio.QUEUE_NOTIFY_REG, 0);
  }

  #requests(): void {
    for (let left = this.#world.draw.below(12); left >= 0; left--)
      this.#offer(0, this.#describe(this.#bytes()));
    this.#word(virtio.QUEUE_NOTIFY_REG, 0);
  }

  /** Returns a request's bytes: valid, or with an invalid field, bit or length. */
  #bytes(): Uint8Array {
    const { draw } = this.#world;
    const type = draw.chance(95) ? draw.one(TYPES) : draw.below(256);
    const bytes = new Uint8Array(REQUEST_BYTES[type] ?? 1 + draw.below(format.PROBE_BYTES));
    const view = new DataView(bytes.buffer);
    view.setUint8(0, type);
    if (bytes.length >= format.DETACH_BYTES && type !== format.T_MAP && type !== format.T_UNMAP) {
      view.setUint32(4, type === format.T_PROBE ? draw.one(DEVICES) : draw.one(DOMAINS), true);
      view.setUint32(8, draw.one(DEVICES), true);
      if (type === format.T_ATTACH) view.setUint32(12, draw.chance(10) ? 1 : 0, true);
    }
    if (type === format.T_MAP || type === format.T_UNMAP) this.#range(view, type);
    if (draw.chance(8)) bytes[draw.below(bytes.length)] = draw.below(256);
    if (draw.chance(8)) bytes[draw.below(bytes.length)]! ^= 1 << draw.below(8);
    return draw.chance(5) ? bytes.subarray(0, 1 + draw.below(bytes.length)) : bytes;
  }

  #range(view: DataView, type: number): void {
    const { draw } = this.#world;
    const start = draw.chance(80) ? BigInt(draw.below(64) * PAGE) : draw.wide();
    const size = draw.chance(90) ? BigInt((1 + draw.below(8)) * PAGE) : draw.wide();
    view.setUint32(4, draw.one(DOMAINS), true);
    view.setBigUint64(8, start, true);
    view.setBigUint64(16, BigInt.asUintN(64, start + size - 1n), true);
    if (type !== format.T_MAP) return;
    view.setBigUint64(24, BigInt(this.#world.page()), true);
    view.setUint32(32, draw.chance(90) ? 1 + draw.below(3) : draw.below(8), true);
  }

  /** Writes a chain for these bytes and an answer; returns its head. It may be split, indirect or invalid. */
  #describe(bytes: Uint8Array): number {
    const { draw, guest } = this.#world;
    const slot = this.#slot;
    this.#slot = (slot + 1) % (ENTRIES / 4);
    const buffer = BUFFERS + (slot % BUFFER_SLOTS) * BUFFER_BYTES;
    guest.write(buffer, bytes);
    const head = 4 * slot;
    const cut = draw.chance(20) && bytes.length > 1 ? 1 + draw.below(bytes.length - 1) : bytes.length;
    const parts: [gpa: number, length: number, flags: number][] = [[buffer, cut, 0]];
    if (cut < bytes.length) parts.push([buffer + cut, bytes.length - cut, 0]);
    const answer = draw.chance(90) ? (bytes[0] === format.T_PROBE ? 516 : 4) : draw.below(600);
    parts.push([buffer + 128, answer, virtio.DESC_F_WRITE]);
    if (draw.chance(15)) return this.#describeIndirect(head, parts);
    for (const [i, [gpa, length, flags]] of parts.entries())
      this.#descriptor(
        RINGS[0]!,
        head + i,
        gpa,
        length,
        i + 1 < parts.length ? flags | 1 : flags,
        head + i + 1,
      );
    return head;
  }

  #describeIndirect(head: number, parts: readonly (readonly [number, number, number])[]): number {
    const { draw } = this.#world;
    const table = INDIRECT + (head % 64) * 64;
    for (const [i, [gpa, length, flags]] of parts.entries())
      this.#descriptor(table, i, gpa, length, i + 1 < parts.length ? flags | 1 : flags, i + 1);
    const length = draw.chance(90) ? 16 * parts.length : draw.below(2 ** 20);
    this.#descriptor(RINGS[0]!, head, table, length, virtio.DESC_F_INDIRECT, 0);
    return head;
  }

  #descriptor(table: number, index: number, gpa: number, length: number, flags: number, next: number): void {
    const { draw, guest } = this.#world;
    const at = table + virtio.DESCRIPTOR_BYTES * index;
    guest.write32(at, draw.chance(98) ? gpa : draw.word());
    guest.write32(at + 4, draw.chance(99) ? 0 : draw.word());
    guest.write32(at + 8, draw.chance(98) ? length : draw.word());
    guest.write32(at + 12, draw.chance(98) ? ((next << 16) | flags) >>> 0 : draw.word());
  }

  #offer(queue: number, head: number): void {
    const { draw, guest } = this.#world;
    const avail = (RINGS[queue] as number) + AVAIL;
    const named = draw.chance(99) ? head : draw.below(0x1_0000);
    const index = this.#offered[queue] as number;
    guest.write(avail + 4 + 2 * (index % ENTRIES), Uint8Array.of(named & 0xff, named >>> 8));
    const next = (index + (draw.chance(99) ? 1 : draw.below(0x1_0000))) & 0xffff;
    this.#offered[queue] = next;
    guest.write32(avail, (next << 16) >>> 0);
  }

  #postEvent(): void {
    const { draw } = this.#world;
    const head = draw.below(ENTRIES);
    const length = draw.chance(90) ? format.EVENT_BYTES : draw.below(64);
    this.#descriptor(RINGS[1]!, head, BUFFERS + BUFFER_SLOTS * BUFFER_BYTES, length, virtio.DESC_F_WRITE, 0);
    this.#offer(1, head);
    this.#word(virtio.QUEUE_NOTIFY_REG, 1);
  }

  #access(): void {
    const { draw, digest } = this.#world;
    for (let left = 3; left > 0; left--) {
      const id = draw.one(DEVICES);
      this.#world.translate(this.iommu, id, draw.below(72 * PAGE), draw.chance(50));
      const wide = this.iommu.translateWide(id, draw.wide(), draw.chance(50));
      digest.addWide(wide.ok ? wide.gpa : BigInt(-1 - wide.reason));
    }
  }

  #damage(): void {
    const { draw, guest } = this.#world;
    const at = draw.one([...RINGS, INDIRECT]) + draw.below((3 * PAGE) / 4) * 4;
    if (draw.chance(50)) guest.write32(at, (guest.read32(at) ^ (1 << draw.below(32))) >>> 0);
    else if (draw.chance(30)) guest.write32(at, draw.word());
  }

  #writeAny(): void {
    const { draw } = this.#world;
    const offset = draw.chance(60) ? 4 * draw.below(0x4c) : draw.below(2 * PAGE);
    const size = draw.one([1, 2, 4, 4, 4, 8]);
    this.#world.write(this.iommu, offset, size, draw.wide());
    this.#world.digest.addWide(this.iommu.readRegister(offset, size));
  }

  #writeBypass(): void {
    const { draw } = this.#world;
    const value = BigInt(draw.chance(95) ? draw.below(2) : draw.below(256));
    const at = virtio.CONFIG_REG + format.CONFIG_BYPASS;
    this.#world.write(this.iommu, at, 1, value);
  }

  walks(): number {
    return this.iommu.counters.requests;
  }

  observe(): void {
    const { digest, guest } = this.#world;
    const domains = new Set(
      DEVICES.map((id) => this.iommu.domainOf(id)).filter((domain) => domain !== undefined),
    );
    let mappings = 0;
    for (const domain of domains) mappings += domain.size;
    hold(mappings <= MAPPING_LIMIT, `${mappings} mappings in domains; at most ${MAPPING_LIMIT}`);
    digest.add(mappings);
    digest.addWide(this.iommu.readRegister(virtio.STATUS_REG, 4));
    digest.add(guest.read32(RINGS[0]! + USED));
    digest.add(guest.read32(BUFFERS + ((this.#slot + ENTRIES - 1) % (ENTRIES / 4)) * BUFFER_BYTES + 128));
    for (const count of Object.values(this.iommu.counters)) digest.add(count);
  }

  #word(offset: number, value: number): void {
    this.#world.write(this.iommu, offset, 4, BigInt(value));
  }
}
