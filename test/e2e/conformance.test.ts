/**
 * The built command `mdevsim conformance`.
 */
import { writeFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { mdevsim } from './run-command.ts';

const GOOD = 'test/data/vfio/B_container_group.json.gz';
const vectors = (...steps: object[]) =>
  JSON.stringify({ section: 'T', vectors: [{ name: 't_one', desc: '', steps }] });

describe('mdevsim conformance vfio', function () {
  this.timeout(120_000);
  const inFolder = temporaryFolder();
  const file = (text: string): string => {
    const path = inFolder('vectors.json');
    writeFileSync(path, text);
    return path;
  };

  it('prints the counts last', async () => {
    const { code, stdout } = await mdevsim('conformance', 'vfio', GOOD);
    expect(stdout).to.equal('7 passed, 0 failed, 0 skipped\n');
    expect(code).to.equal(0);
  });

  it('names vector, step, expected and actual value of a difference', async () => {
    const path = file(vectors({ op: 'open_container', container: 'c0', ret: -1, errno: 'EBUSY' }));
    const { code, stdout } = await mdevsim('conformance', 'vfio', path, GOOD);
    expect(stdout).to.contain('t_one step 0 open_container errno: expected "EBUSY", got null\n');
    expect(stdout).to.match(/\n7 passed, 1 failed, 0 skipped\n$/);
    expect(code).to.equal(1);
    const json = await mdevsim('conformance', 'vfio', path, '--json');
    expect(JSON.parse(json.stdout)).to.deep.include({ passed: 0, failed: 1, skipped: 0 });
  });

  it('skips a vector with an unknown operation and names the reason', async () => {
    const { code, stdout } = await mdevsim('conformance', 'vfio', file(vectors({ op: 'migrate' })));
    expect(stdout).to.contain('t_one skipped: operation migrate is not modelled\n');
    expect(stdout).to.match(/\n0 passed, 0 failed, 1 skipped\n$/);
    expect(code).to.equal(0);
  });

  for (const [what, text, message] of [
    ['no JSON', '{', /not JSON/],
    ['no vectors', '{}', /"section"/],
    ['a step without op', vectors({}), /vector 0 step 0 "op"/],
    [
      'a step without its input',
      vectors({ op: 'open_container' }),
      /t_one step 0 open_container.*"container"/,
    ],
  ] as const)
    it(`exits with 104 and one line on ${what}`, async () => {
      const { code, stdout, stderr } = await mdevsim('conformance', 'vfio', file(text));
      expect(stderr)
        .to.match(message)
        .and.match(/^mdevsim: [^\n]+\n$/);
      expect(stdout).to.equal('');
      expect(code).to.equal(104);
    });
});

describe('mdevsim conformance of the vIOMMUs', function () {
  this.timeout(120_000);
  const FILES = {
    vtd: 'test/data/vtd/10-qi.json.gz',
    'virtio-iommu': 'test/data/virtio-iommu/04-attach.json.gz',
    spapr: 'test/data/spapr/01-put.json.gz',
  };

  for (const [kind, file] of Object.entries(FILES))
    for (const quirks of ['spec', 'qemu'])
      it(`${kind}, quirks of ${quirks}`, async () => {
        const { code, stdout } = await mdevsim('conformance', kind, file, '--quirks', quirks);
        expect(stdout).to.match(/^[1-9]\d* passed, 0 failed, 0 skipped\n$/);
        expect(code).to.equal(0);
      });

  it('runs the recordings of the package if no file is named', async () => {
    for (const kind of ['vfio', ...Object.keys(FILES)]) {
      const { code, stdout } = await mdevsim('conformance', kind);
      expect(stdout, kind).to.match(/^\d{3} passed, 0 failed, 0 skipped\n$/);
      expect(code).to.equal(0);
    }
    const { code, stdout } = await mdevsim('replay');
    expect(stdout).to.match(/^PASSED {2}6 captures/);
    expect(code).to.equal(0);
  });

  it('refuses a file of another kind with one line', async () => {
    for (const kind of Object.keys(FILES)) {
      const { code, stderr } = await mdevsim('conformance', kind, GOOD);
      expect(stderr, kind).to.match(/^mdevsim: test\/data\/vfio\/B_container_group\.json\.gz: [^\n]+\n$/);
      expect(code).to.equal(104);
    }
  });
});
