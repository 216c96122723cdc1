/**
 * Mutants of the guest's drivers for VT-d, virtio-iommu and sPAPR.
 */
import type { Mutant } from '../mutant.ts';

const CONTEXTS = 'src/guest/iommu/vtd/context-tables.ts';
const DESCRIPTORS = 'src/guest/iommu/vtd/descriptors.ts';
const VTD_DOMAIN = 'src/guest/iommu/paged-domain.ts';
const VTD_DRIVER = 'src/guest/iommu/vtd/driver.ts';
const PIECES = 'src/guest/iommu/aligned-pieces.ts';
const VTD_QUEUE = 'src/guest/iommu/command-ring.ts';
const EDITOR = 'src/guest/iommu/vtd/page-table-editor.ts';
const VIRTIO_DOMAIN = 'src/guest/iommu/virtio/domain.ts';
const VIRTIO_DRIVER = 'src/guest/iommu/virtio/driver.ts';
const VIRTIO_SWITCHED = 'src/guest/iommu/virtio/switched-driver.ts';
const WINDOW = 'src/guest/iommu/spapr/dma-window.ts';
const SPAPR_DOMAIN = 'src/guest/iommu/spapr/domain.ts';
const SPAPR_SWITCHED = 'src/guest/iommu/spapr/switched-driver.ts';
const HYPERCALLS = 'src/guest/iommu/spapr/hypercalls.ts';

const VTD = ['test/unit/vtd-driver.test.ts'];
const VIRTIO = ['test/unit/virtio-iommu-driver.test.ts'];
const SPAPR = ['test/unit/spapr-driver.test.ts'];
const SWITCHED = ['test/unit/guest-iommu.test.ts'];

export const GUEST_IOMMU_MUTANTS: readonly Mutant[] = [
  {
    id: 'guest-iommu/clear-keeps-entry',
    file: CONTEXTS,
    find: `    this.#ram.write32(this.#entry(requesterId), 0);
    return [contextDevice(cachedDomain, requesterId)];`,
    replace: '    return [contextDevice(cachedDomain, requesterId)];',
    why: 'A detached device keeps its context entry.',
    killedBy: VTD,
  },
  {
    id: 'guest-iommu/one-table-for-two-halves',
    file: CONTEXTS,
    find: 'const half = Math.floor(requesterId / vtd.SM_CONTEXT_ENTRIES);',
    replace: 'const half = 2 * Math.floor(requesterId / (2 * vtd.SM_CONTEXT_ENTRIES));',
    why: 'Devices of the upper half of a bus share entries with the lower.',
    killedBy: VTD,
  },
  {
    id: 'guest-iommu/known-device-without-context',
    file: CONTEXTS,
    find: 'return known ? [pasid] : [contextDevice(cachedDomain, requesterId), pasid];',
    replace: 'return [pasid];',
    why: 'A new context entry is not announced.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/pass-through-of-first-stage',
    file: CONTEXTS,
    find: 'const type = root === undefined ? vtd.PGTT_PASS_THROUGH : this.#type;',
    replace: 'const type = this.#type;',
    why: 'A pass-through device is translated by tables at 0.',
    killedBy: VTD,
  },
  {
    id: 'guest-iommu/invalidates-other-pages',
    file: DESCRIPTORS,
    find: `    vtd.QI_IOTLB | (vtd.IOTLB_PAGE << 4) | DRAIN | (domainId << 16),
    0,
    (iova % 2 ** 32) + mask,
    Math.floor(iova / 2 ** 32),`,
    replace: `    vtd.QI_IOTLB | (vtd.IOTLB_PAGE << 4) | DRAIN | (domainId << 16),
    0,
    (iova % 2 ** 32) + mask,
    0,`,
    why: 'IOVAs above 4 GiB are not invalidated.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/no-invalidation-after-map',
    file: VTD_DOMAIN,
    find: 'if (this.#host.cachingMode && mapped.length > 0)',
    replace: 'if (!this.#host.cachingMode && mapped.length > 0)',
    why: 'Under caching mode a device does not see new mappings.',
    killedBy: VTD,
  },
  {
    id: 'guest-iommu/tables-free-before-invalidation',
    file: VTD_DOMAIN,
    find: `    await this.#host.invalidate(this, ranges);
    for (const table of retired) this.#host.pages.free(table);`,
    replace: `    for (const table of retired) this.#host.pages.free(table);
    await this.#host.invalidate(this, ranges);`,
    why: 'A page table is used again while hardware walks it.',
    killedBy: VTD,
  },
  {
    id: 'guest-iommu/failed-map-untold',
    file: VTD_DOMAIN,
    find: `    } finally {
      if (this.#host.cachingMode`,
    replace: `    } finally {
      if (mapped.length === ranges.length && this.#host.cachingMode`,
    why: 'Ranges that were mapped before one failed are not announced.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/failed-unmap-untold',
    file: VTD_DOMAIN,
    find: 'if (unmapped.length > 0) await this.#invalidate(unmapped);',
    replace: 'if (unmapped.length === ranges.length) await this.#invalidate(unmapped);',
    why: 'Ranges that were unmapped before one failed stay reachable.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/used-domain-destroyed',
    file: VTD_DRIVER,
    find: 'if (used === domain)',
    replace: 'if (used === undefined)',
    why: 'The tables of a domain in use are freed.',
    killedBy: VTD,
  },
  {
    id: 'guest-iommu/page-selective-unaligned',
    file: PIECES,
    find: 'return at % size === 0 && at + size <= end;',
    replace: 'return at + size <= end;',
    why: 'A page-selective descriptor covers other pages than its range.',
    killedBy: VTD,
  },
  {
    id: 'guest-iommu/earlier-driver-translates',
    file: VTD_DRIVER,
    find: `    await this.disableTranslation();
    await this.#command('disabling queued`,
    replace: "    await this.#command('disabling queued",
    why: 'Devices use the tables of an earlier driver.',
    killedBy: VTD,
  },
  {
    id: 'guest-iommu/fault-stays',
    file: VTD_DRIVER,
    find: '      await this.#port.write(at + 12, 4, BigInt(vtd.FRCD_F_DWORD));\n',
    replace: '',
    why: 'A fault is read again and again, and hides the next.',
    killedBy: VTD,
  },
  {
    id: 'guest-iommu/overflow-stays',
    file: VTD_DRIVER,
    find: '    await this.#port.write(vtd.FSTS_REG, 4, BigInt(vtd.FSTS_PFO));\n',
    replace: '',
    why: 'After one overflow no fault is recorded.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/one-shot-commands-repeated',
    file: VTD_DRIVER,
    find: 'const status = (await this.#status()) & ~vtd.GSTS_ONE_SHOT;',
    replace: 'const status = await this.#status();',
    why: 'Each command sets the root table again.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/old-domain-not-invalidated',
    file: VTD_DRIVER,
    find: 'await this.#invalidateDevice(requesterId, descriptors, [cached, domainId]);',
    replace: 'await this.#invalidateDevice(requesterId, descriptors, [domainId]);',
    why: 'A device that changes its domain keeps translations of the old one.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/queue-without-spare',
    file: VTD_QUEUE,
    find: 'this.#used + slots <= this.#format.entries - SPARE_SLOTS',
    replace: 'this.#used + slots <= this.#format.entries',
    why: 'A full queue looks empty.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/status-value-stays',
    file: VTD_QUEUE,
    find: 'this.#value = (this.#value % 0xffffffff) + 1;',
    replace: 'this.#value = 1;',
    why: 'A late status of one submission completes another.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/wake-is-completion',
    file: VTD_QUEUE,
    find: `      if (leftMs <= 0) return;
      await this.#ram.waitWhile32(submission.statusGpa, 0, leftMs);
    }`,
    replace: `      if (leftMs <= 0) return;
      await this.#ram.waitWhile32(submission.statusGpa, 0, leftMs);
      return;
    }`,
    why: 'A late wake-up of an earlier submission counts as a time-out.',
    killedBy: VTD,
  },
  {
    id: 'guest-iommu/partial-map-stays',
    file: EDITOR,
    find: '      if (done > 0) this.unmap(iova, done);\n',
    replace: '',
    why: 'A map that ran out of pages leaves a part.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/part-of-large-page-unmapped',
    file: EDITOR,
    find: 'if (leaf.iova < iova || leaf.iova + span > end)',
    replace: 'if (leaf.iova < iova)',
    why: 'An unmap of a part removes a whole large page.',
    killedBy: VTD,
  },
  {
    id: 'guest-iommu/large-leaf-to-unaligned-page',
    file: EDITOR,
    find: 'if (iova % span === 0 && gpa % span === 0 && left >= span) break;',
    replace: 'if (iova % span === 0 && left >= span) break;',
    why: 'A large leaf maps the pages before its GPA.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/table-freed-while-used',
    file: EDITOR,
    find: 'if (this.#count(table, -1) > 0 || table === this.root) return;',
    replace: 'if (this.#count(table, -1) > 1 || table === this.root) return;',
    why: 'A page table with one mapping is freed.',
    killedBy: VTD,
  },
  {
    id: 'guest-iommu/virtio-domain-empty-at-return',
    file: VIRTIO_DOMAIN,
    find: 'if (!first || this.bypass) return;',
    replace: 'return;',
    why: 'A domain whose first endpoint comes back has no mappings.',
    killedBy: VIRTIO,
  },
  {
    id: 'guest-iommu/virtio-refused-map-kept',
    file: VIRTIO_DOMAIN,
    find: '      for (const [i, { iova }] of ranges.entries()) if (statuses[i] !== S_OK) this.#mapped.delete(iova);\n',
    replace: '',
    why: 'A mapping that the device refused is in use.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/virtio-split',
    file: VIRTIO_DOMAIN,
    find: 'if (mapped.iova < iova || mapped.iova + mapped.size > end)',
    replace: 'if (mapped.iova < iova)',
    why: 'The driver forgets a mapping that the device keeps.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/virtio-overlap',
    file: VIRTIO_DOMAIN,
    find: 'if (below && below.iova + below.size > iova)',
    replace: 'if (below && below.iova === iova)',
    why: 'A mapping overlaps one that begins before.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/virtio-endpoint-left-behind',
    file: VIRTIO_DRIVER,
    find: `      );
      this.#attachments.delete(endpoint);`,
    replace: '      );',
    why: 'An endpoint that has left cannot return to its domain.',
    killedBy: VIRTIO,
  },
  {
    id: 'guest-iommu/virtio-one-id-too-many',
    file: VIRTIO_DRIVER,
    find: 'if (id > this.#lastId)',
    replace: 'if (id > this.#lastId + 1)',
    why: 'The driver uses a domain ID that the device does not have.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/virtio-event-buffer-lost',
    file: VIRTIO_DRIVER,
    find: '      this.#offerEvent(used.head);\n',
    replace: '',
    why: 'After 64 faults no more are reported.',
    killedBy: VIRTIO,
  },
  {
    id: 'guest-iommu/virtio-placeholder-stays',
    file: VIRTIO_SWITCHED,
    find: '      await this.#driver.detach(PLACEHOLDER);\n',
    replace: '',
    why: 'The placeholder stays in a domain, which then keeps its mappings.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/virtio-blocked-while-disabling',
    file: VIRTIO_SWITCHED,
    find: `    await this.#driver.setBypass(true);
    for (const requesterId of views.keys()) await this.#driver.detach(requesterId);`,
    replace: `    for (const requesterId of views.keys()) await this.#driver.detach(requesterId);
    await this.#driver.setBypass(true);`,
    why: 'Devices see nothing for a moment when translation is disabled.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/spapr-busy-ignored',
    file: WINDOW,
    find: 'if (taken(index) || this.#busy.has(index) || tces.has(index))',
    replace: 'if (taken(index) || tces.has(index))',
    why: 'Two calls change one TCE at once.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/spapr-beyond-window',
    file: WINDOW,
    find: 'if (first < 0 || first + count > this.#entries)',
    replace: 'if (first < 0 || first > this.#entries)',
    why: 'A mapping runs beyond the window.',
    killedBy: SPAPR,
  },
  {
    id: 'guest-iommu/spapr-unmapped-stays',
    file: WINDOW,
    find: '      for (let i = 0; i < tces.length; i++) this.#live.delete(index + i);\n',
    replace: '',
    why: 'An unmapped page cannot be mapped again.',
    killedBy: SPAPR,
  },
  {
    id: 'guest-iommu/spapr-list-of-any-length',
    file: WINDOW,
    find: 'last.index + last.tces.length === index && last.tces.length < spapr.TCE_CALL_LIMIT',
    replace: 'last.index + last.tces.length === index',
    why: 'A list of TCEs is longer than its page.',
    killedBy: SPAPR,
  },
  {
    id: 'guest-iommu/spapr-gaps-filled',
    file: WINDOW,
    find: 'last.index + last.tces.length === index && last.tces.length < spapr.TCE_CALL_LIMIT',
    replace: 'last.tces.length < spapr.TCE_CALL_LIMIT',
    why: 'TCEs behind a gap are written into it.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/spapr-domain-beyond-window',
    file: SPAPR_DOMAIN,
    find: 'if (iova < 0 || iova >= this.#limit)',
    replace: 'if (iova < 0)',
    why: 'A domain takes pages that no window can show.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/spapr-left-window-follows',
    file: SPAPR_SWITCHED,
    find: "    if (typeof previous === 'object') previous.leave(window);\n",
    replace: '',
    why: 'A domain keeps the windows of devices that have left it.',
    killedBy: SWITCHED,
    equivalent:
      'A window compares its TCEs with the pages of the view that it shows, so a change elsewhere rewrites none.',
  },
  {
    id: 'guest-iommu/spapr-window-holds-less',
    file: SPAPR_DOMAIN,
    find: '    for (const { iova } of stale) this.#held.delete(iova);\n',
    replace: '',
    why: 'A page that was unmapped is not written when it is mapped again.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/spapr-late-slot-used-again',
    file: HYPERCALLS,
    find: 'usable = !(error instanceof HypercallTimeout);',
    replace: 'usable = true;',
    why: 'A slot to which the hypervisor still writes is used again.',
    killedBy: SWITCHED,
  },
  {
    id: 'guest-iommu/spapr-waiting-for-ever',
    file: HYPERCALLS,
    find: '    for (const { reject } of this.#waiting.splice(0)) reject(new NoCallSlot());\n',
    replace: '',
    why: 'Calls wait without end when all slots are lost.',
    killedBy: SWITCHED,
  },
];
