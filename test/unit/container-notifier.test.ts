/**
 * Map events at a real container: their outcome, and the reason of a refusal.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { ContainerNotifier } from '../../src/coordinator/vm/container-notifier.ts';
import { type Gpa, type Iova, PAGE_2M, PAGE_SIZE, PERM_RW } from '../../src/memory/address.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';
import { Container } from '../../src/vfio/container.ts';
import { SpaprContainer } from '../../src/vfio/spapr-container.ts';
import { MIB, smallRam } from '../fixtures/recording-notifier.ts';

const ram = smallRam(4 * MIB);
const at = (page: number) => (page * PAGE_SIZE) as Iova;
const gpa = (page: number) => (page * PAGE_SIZE) as Gpa;

describe('a map event at a container', () => {
  it('is refused for an overlap, which is no limit of the container', () => {
    const notifier = new ContainerNotifier(new Container(new PinTableWriter(8), ram), ram);
    expect(notifier.map(at(1), gpa(1), PAGE_SIZE, PERM_RW)).to.equal('mapped');
    expect(notifier.map(at(1), gpa(2), PAGE_SIZE, PERM_RW)).to.equal('refused');
    expect(notifier.refusal(at(1), gpa(2), PAGE_SIZE, PERM_RW)).to.equal(undefined);
    expect(notifier.refusal(at(2), gpa(2), PAGE_SIZE, PERM_RW)).to.equal(undefined);
  });

  it('is full at the entry limit, until an unmap makes room', () => {
    const container = new Container(new PinTableWriter(8), ram, { entryLimit: 1 });
    const notifier = new ContainerNotifier(container, ram);
    notifier.map(at(1), gpa(1), PAGE_SIZE, PERM_RW);
    expect(notifier.map(at(2), gpa(2), PAGE_SIZE, PERM_RW)).to.equal('full');
    expect(notifier.refusal(at(2), gpa(2), PAGE_SIZE, PERM_RW)).to.equal(
      'ENOSPC: limit of 1 live mappings reached',
    );
    expect(container.liveMappings, 'a question changes nothing').to.equal(1);
    notifier.unmap([{ iova: at(1), size: PAGE_SIZE }]);
    expect(notifier.refusal(at(2), gpa(2), PAGE_SIZE, PERM_RW)).to.equal(undefined);
  });

  it('is full without a free node, and the reason says so', () => {
    const container = new Container(new PinTableWriter(2), ram);
    const notifier = new ContainerNotifier(container, ram);
    notifier.map(at(0), gpa(0), PAGE_SIZE, PERM_RW);
    expect(notifier.map(PAGE_2M as Iova, gpa(1), PAGE_SIZE, PERM_RW)).to.equal('full');
    expect(notifier.refusal(PAGE_2M as Iova, gpa(1), PAGE_SIZE, PERM_RW)).to.match(
      /^ENOSPC: pin table is full/,
    );
    expect(container.liveMappings).to.equal(1);
  });

  it('is refused beyond RAM, and outside the windows', () => {
    const container = new SpaprContainer(new PinTableWriter(8), ram);
    const notifier = new ContainerNotifier(container, ram);
    notifier.windows([{ start: 0, size: PAGE_2M, pageShift: 16 }]);
    expect(notifier.map(at(0), gpa(1024), 0x10000, PERM_RW)).to.equal('refused');
    expect(notifier.refusal(at(0), gpa(1024), 0x10000, PERM_RW)).to.match(/^EFAULT: /);
    expect(notifier.refusal(PAGE_2M as Iova, gpa(0), 0x10000, PERM_RW)).to.match(/^ENXIO: /);
    expect(notifier.refusal(at(0), gpa(0), PAGE_SIZE, PERM_RW)).to.match(/^EINVAL: .*multiples of 65536/);
    expect(notifier.refusal(at(0), gpa(0), 0x10000, PERM_RW)).to.equal(undefined);
  });
});
