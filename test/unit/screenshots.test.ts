import { expect } from 'chai';
import { describe, it } from 'mocha';
import { SCREENSHOTS_PENDING, ScreenshotError, Screenshots } from '../../src/scenario/screenshots.ts';

const rejection = async (taken: Promise<unknown>): Promise<Error> => {
  try {
    await taken;
  } catch (error) {
    return error as Error;
  }
  throw new Error('no error');
};

describe('pictures of devices on demand', () => {
  it('come with the answer of the same number, whatever the order', async () => {
    const ids: number[] = [];
    const screenshots = new Screenshots((vm, device, id) => ids.push(id) > 0 && vm + device >= 0);
    const [first, second] = [screenshots.take(0, 1), screenshots.take(2, 3)];
    screenshots.answered({ id: ids[1] as number, png: Uint8Array.of(2), error: '' });
    screenshots.answered({ id: 99, png: Uint8Array.of(9), error: '' });
    screenshots.answered({ id: ids[0] as number, png: Uint8Array.of(1), error: '' });
    expect([...(await first), ...(await second)]).to.deep.equal([1, 2]);
  });

  it('fail with the reason: that of the guest, of a VM that has ended, or too many requests', async () => {
    let runs = true;
    let last = 0;
    const screenshots = new Screenshots((_vm, _device, id) => {
      last = id;
      return runs;
    });
    const refused = screenshots.take(0, 0);
    screenshots.answered({ id: last, png: new Uint8Array(), error: 'vm0/gpu0 displays nothing' });
    expect(await rejection(refused))
      .to.be.instanceOf(ScreenshotError)
      .with.property('message', 'vm0/gpu0 displays nothing');
    runs = false;
    expect((await rejection(screenshots.take(7, 0))).message).to.equal(
      'VM 7 does not run; accepted: a running VM',
    );
    runs = true;
    const pending = Array.from({ length: SCREENSHOTS_PENDING }, () => screenshots.take(0, 0));
    expect((await rejection(screenshots.take(0, 0))).message).to.match(/^16 pictures are being taken/);
    for (let id = last - SCREENSHOTS_PENDING + 1; id <= last; id++)
      screenshots.answered({ id, png: Uint8Array.of(1), error: '' });
    await Promise.all(pending);
    const next = screenshots.take(0, 0);
    screenshots.answered({ id: last, png: Uint8Array.of(5), error: '' });
    expect(await next).to.deep.equal(Uint8Array.of(5));
  });
});
