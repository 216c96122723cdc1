import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { VGPU_IDENTITY, VGPU_REGISTERS } from '../../src/abi/vgpu/vgpu.ts';
import {
  bdfText,
  COMMAND_BUS_MASTER,
  COMMAND_MEMORY_SPACE,
  ConfigSpace,
  MSI_CAPABILITY,
  MSI_CONTROL_ENABLE,
  requesterId,
} from '../../src/pci/config-space.ts';
import {
  RegisterFile,
  type RegisterSpec,
  RegisterTableError,
  UNIMPLEMENTED_OFFSETS_LIMIT,
} from '../../src/registers/register-file.ts';

type Name = 'Mixed' | 'Wide' | 'Byte' | 'Constant';
const TABLE: readonly RegisterSpec<Name>[] = [
  { name: 'Mixed', offset: 0, size: 4, reset: 0xf0f0_0000n, rw: 0x0000_ffffn, w1c: 0xffff_0000n },
  { name: 'Wide', offset: 8, size: 8, rw: 0xffff_ffff_ffff_ffffn },
  { name: 'Byte', offset: 16, size: 1, reset: 0x11n, rw: 0x0fn },
  { name: 'Constant', offset: 17, size: 2, reset: 0xbeefn },
];
const SIZE = 32;
const file = () => new RegisterFile<Name>(SIZE, TABLE);

describe('RegisterFile', () => {
  it('starts at the reset values and returns to them', () => {
    const registers = file();
    registers.write(8, 8, 0x1234n);
    expect(registers.get('Wide')).to.equal(0x1234n);
    registers.reset();
    expect([...registers.entries()].map(({ value }) => value)).to.deep.equal([
      0xf0f0_0000n,
      0n,
      0x11n,
      0xbeefn,
    ]);
  });

  it('stores writable bits, clears write-1-to-clear bits, and keeps read-only bits', () => {
    const registers = file();
    registers.write(0, 4, 0x1010_abcdn);
    expect(registers.get('Mixed')).to.equal(0xe0e0_abcdn);
    registers.write(16, 1, 0xffn);
    expect(registers.get('Byte')).to.equal(0x1fn);
    registers.write(17, 2, 0n);
    expect(registers.get32('Constant')).to.equal(0xbeef);
  });

  it('lets the device itself set any bit', () => {
    const registers = file();
    registers.set('Constant', 0x1_2345n);
    expect(registers.get('Constant'), 'truncated to its size').to.equal(0x2345n);
  });

  it('keeps the neighbour bytes of a partial write', () => {
    const registers = file();
    registers.write(11, 2, 0xabcdn);
    expect(registers.get('Wide')).to.equal(0x00ab_cd00_0000n);
    expect(registers.get32('Wide')).to.equal(0xcd00_0000);
    expect(registers.read(12, 1)).to.equal(0xabn);
  });

  it('runs the action of each register in a write once, with the merged value', () => {
    const registers = file();
    const log: string[] = [];
    for (const name of ['Mixed', 'Wide', 'Byte', 'Constant'] as const)
      registers.onWrite(name, (value) => log.push(`${name}=${value.toString(16)}`));
    registers.write(12, 8, 0xffff_ffff_ffff_ffffn);
    registers.write(4, 4, 1n);
    registers.write(0, 1, 0x42n);
    expect(log).to.deep.equal(['Wide=ffffffff00000000', 'Byte=1f', 'Constant=beef', 'Mixed=f0f00042']);
  });

  it('agrees with a bit-by-bit model on every sequence of accesses', () => {
    const access = fc.record({
      write: fc.boolean(),
      offset: fc.integer({ min: -2, max: SIZE + 2 }),
      size: fc.constantFrom(1, 2, 4, 8),
      value: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    });
    const mask = (field: 'rw' | 'w1c' | 'reset') =>
      TABLE.reduce((bits, spec) => bits | ((spec[field] ?? 0n) << BigInt(8 * spec.offset)), 0n);
    const [rw, w1c] = [mask('rw'), mask('w1c')];
    fc.assert(
      fc.property(fc.array(access, { maxLength: 40 }), (accesses) => {
        const registers = file();
        let bits = mask('reset');
        for (const { write, offset, size, value } of accesses) {
          const inside = offset >= 0 && offset + size <= SIZE;
          const ones = (1n << BigInt(8 * size)) - 1n;
          const shift = BigInt(8 * Math.max(0, offset));
          if (write && inside) {
            const [touched, written] = [ones << shift, (value & ones) << shift];
            bits = (bits & ~(touched & rw) & ~(written & w1c)) | (written & rw);
          }
          if (write) registers.write(offset, size, value);
          else expect(registers.read(offset, size)).to.equal(inside ? (bits >> shift) & ones : ones);
        }
        expect(registers.read(0, 8)).to.equal(bits & 0xffff_ffff_ffff_ffffn);
      }),
      { numRuns: 300 },
    );
  });

  it('counts accesses to unimplemented offsets, for a bounded number of offsets', () => {
    const registers = new RegisterFile<Name>(4096, TABLE);
    registers.read(64, 4);
    registers.write(64, 4, 1n);
    registers.read(15, 4);
    registers.read(6, 4);
    expect(registers.unimplemented).to.deep.equal(new Map([[64, { reads: 1, writes: 1 }]]));
    for (let offset = 128; offset < 4096; offset++) registers.write(offset, 1, 0n);
    expect(registers.unimplemented.size).to.equal(UNIMPLEMENTED_OFFSETS_LIMIT);
    registers.read(64, 4);
    expect(registers.unimplemented.get(64), 'a known offset is still counted').to.deep.equal({
      reads: 2,
      writes: 1,
    });
    expect(registers.unimplementedOthers).to.equal(4096 - 128 - (UNIMPLEMENTED_OFFSETS_LIMIT - 1));
  });

  it('refuses contradictory tables and unknown names', () => {
    const build =
      (...table: RegisterSpec[]) =>
      () =>
        new RegisterFile<string>(16, table);
    expect(build({ name: 'A', offset: 0, size: 4 }, { name: 'B', offset: 3, size: 1 })).to.throw(
      RegisterTableError,
      'B overlaps A',
    );
    expect(build({ name: 'A', offset: 0, size: 4 }, { name: 'A', offset: 8, size: 4 })).to.throw(
      'declared twice',
    );
    expect(build({ name: 'A', offset: 12, size: 8 })).to.throw('does not fit a file of 16 bytes');
    expect(build({ name: 'A', offset: 12, size: 4 })).to.not.throw();
    expect(() => build()().get('A')).to.throw(RegisterTableError, 'no register A');
  });
});

describe('PCI configuration space', () => {
  const config = () => new ConfigSpace(VGPU_IDENTITY);

  it('reads back the identity, and ignores writes to it', () => {
    const { registers } = config();
    registers.write(0, 4, 0n);
    expect(registers.read(0, 4)).to.equal(0x6d64_1234n);
    expect(registers.read(8, 4)).to.equal(0x0302_0001n);
    expect(registers.read(0x2c, 4)).to.equal(0x0001_1234n);
  });

  it('returns the size of BAR 0 after a write of all ones, as 32-bit memory', () => {
    for (const bar0Bytes of [16, 4096, 2 ** 31]) {
      const { registers } = new ConfigSpace({ ...VGPU_IDENTITY, bar0Bytes });
      registers.write(0x10, 4, 0xffff_ffffn);
      expect(registers.read(0x10, 4)).to.equal(BigInt.asUintN(32, -BigInt(bar0Bytes)));
      expect(registers.read(0x14, 4)).to.equal(0n);
    }
  });

  it('enables memory space, bus mastering and MSI by their bits', () => {
    const space = config();
    expect([space.memorySpace, space.busMaster, space.msiEnabled]).to.deep.equal([false, false, false]);
    space.registers.write(4, 2, BigInt(COMMAND_MEMORY_SPACE));
    expect([space.memorySpace, space.busMaster]).to.deep.equal([true, false]);
    space.registers.write(4, 2, BigInt(COMMAND_BUS_MASTER));
    expect([space.memorySpace, space.busMaster]).to.deep.equal([false, true]);
    const pointer = Number(space.registers.read(0x34, 1));
    expect(pointer).to.equal(MSI_CAPABILITY);
    expect(space.registers.read(pointer, 1)).to.equal(5n);
    space.registers.write(pointer + 2, 2, BigInt(MSI_CONTROL_ENABLE));
    expect(space.msiEnabled).to.equal(true);
  });

  it('shares the MSI vectors that software has enabled', () => {
    const space = new ConfigSpace({ ...VGPU_IDENTITY, msiVectors: 8 });
    space.registers.write(4, 2, BigInt(COMMAND_BUS_MASTER));
    const delivered = (enabledLog2: number) => {
      space.registers.write(MSI_CAPABILITY + 2, 2, BigInt(MSI_CONTROL_ENABLE | (enabledLog2 << 4)));
      return [0, 3, 7].map((vector) => space.delivered(vector));
    };
    expect([0, 1, 2, 3].map(delivered)).to.deep.equal([
      [0, 0, 0],
      [0, 1, 1],
      [0, 3, 3],
      [0, 3, 7],
    ]);
  });

  it('prints requester IDs as lspci does', () => {
    expect(bdfText(requesterId(0x3a, 0x1f, 7))).to.equal('3a:1f.7');
    expect(bdfText(requesterId(0, 2, 0))).to.equal('00:02.0');
  });
});

describe('registers with an action at reads', () => {
  it('ask for their value once for each software read that touches them', () => {
    const registers = file();
    let reads = 0;
    registers.onRead('Wide', () => BigInt(++reads) << 32n);
    expect([registers.read(8, 4), registers.read(12, 4), registers.read(8, 8)]).to.deep.equal([
      0n,
      2n,
      3n << 32n,
    ]);
    expect([registers.read(16, 1), registers.get('Wide'), reads]).to.deep.equal([0x11n, 3n << 32n, 3]);
  });
});

describe('vgpu register table', () => {
  it('aligns its registers naturally', () => {
    for (const { name, offset, size } of VGPU_REGISTERS) expect(offset % size, name).to.equal(0);
  });
});
