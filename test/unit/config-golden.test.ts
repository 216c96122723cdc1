/**
 * Golden files of each model's configuration space after its guest enabled the device, as `lspci -vv` prints it.
 * UPDATE_GOLDEN=1 rewrites them.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { VGPU_IDENTITY } from '../../src/abi/vgpu/vgpu.ts';
import { DeviceHarness } from '../../src/index.ts';
import { MODELS } from '../../src/models/index.ts';
import { ConfigSpace, requesterId } from '../../src/pci/config-space.ts';
import { configDump } from '../support/config-dump.ts';

const DATA = fileURLToPath(new URL('../data/', import.meta.url));
const SLOT = requesterId(0, 4, 0);
const GOLDEN_MODELS = ['vgpu', 'edu', 'mtty', 'mdpy', 'virtio-rng', 'virtio-gpu'];

/** Returns a device of the model in the state in which its guest's driver leaves it. */
function enabled(model: string): DeviceHarness {
  const device = new DeviceHarness(MODELS[model]!);
  device.enable();
  return device;
}

function lspci(dump: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'mdevsim-lspci-'));
  try {
    const file = join(folder, 'dump');
    writeFileSync(file, dump);
    // The names come from a file in test/data, because the lists of distributions differ.
    const args = ['-F', file, '-i', join(DATA, 'pci.ids'), '-vv'];
    return execFileSync('lspci', args, { encoding: 'utf8', stdio: 'pipe', timeout: 10_000 });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

describe('configuration space in lspci', () => {
  const isInstalled = spawnSync('lspci', ['--version'], { timeout: 10_000 }).status === 0;

  it('has the dump format of lspci -xxx', () => {
    const lines = configDump(SLOT, enabled('edu').model.config).split('\n');
    expect(lines).to.have.length(1 + 16 + 2);
    expect(lines[0]).to.equal('00:04.0 00ff: 1234:11e8');
    expect(lines[1]).to.equal('00: 34 12 e8 11 07 00 10 00 10 00 ff 00 00 00 00 00');
    expect(lines[16]).to.equal(`f0:${' 00'.repeat(16)}`);
  });

  it('lists a device’s own capabilities before MSI', () => {
    const capability = { id: 0x09, registers: [{ name: 'Own', offset: 0x42, size: 2 as const, reset: 8n }] };
    const identity = { ...VGPU_IDENTITY, capabilities: [{ ...capability, offset: 0x40 }] };
    const bytes = new ConfigSpace(identity).bytes();
    expect([bytes[0x34], ...bytes.subarray(0x40, 0x44), ...bytes.subarray(0x50, 0x52)]).to.deep.equal([
      0x40, 0x09, 0x50, 8, 0, 0x05, 0x60,
    ]);
    const { msix: _msix, express: _express, ...plain } = VGPU_IDENTITY;
    const without = new ConfigSpace({ ...plain, msiVectors: 0 });
    expect([without.bytes()[0x34], without.bytes()[0x06], without.delivered(0)]).to.deep.equal([
      0,
      0,
      undefined,
    ]);
  });

  for (const model of GOLDEN_MODELS)
    it(`equals lspci-${model}.txt for ${model}`, function () {
      if (!isInstalled) {
        console.log(`    lspci-${model}.txt skipped: lspci is not installed (apt-get install pciutils)`);
        this.skip();
      }
      const printed = lspci(configDump(SLOT, enabled(model).model.config));
      const golden = join(DATA, `lspci-${model}.txt`);
      if (process.env.UPDATE_GOLDEN) writeFileSync(golden, printed);
      expect(printed).to.equal(readFileSync(golden, 'utf8'));
    });
});
