/**
 * Memory of a client by messages: a step that stalls repeats its accesses.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import type { Iova } from '../../src/memory/address.ts';
import { ClientMemory } from '../../src/vfio-user/client-memory.ts';
import { Command, DMA_ACCESS, HEADER } from '../../src/vfio-user/protocol.ts';

describe('client memory by messages', () => {
  it('keeps what it has read, although the bytes of a message are reused by the next one', () => {
    const memory = new ClientMemory();
    const ids: number[] = [];
    memory.connect({ send: (bytes) => void ids.push(HEADER.read(bytes).id), dataBytesMax: 4096 });
    const arena = Buffer.alloc(DMA_ACCESS.size + 4);
    const target = new Uint8Array(4);
    for (const [at, byte] of [0xaa, 0xbb].entries()) {
      expect(memory.access(false, (at * 4) as Iova, target)).to.equal('busy');
      arena.set(DMA_ACCESS.encode({ address: BigInt(at * 4), count: 4n }, 4));
      arena.fill(byte, DMA_ACCESS.size);
      const flags = 1;
      memory.reply({ id: ids[at]!, command: Command.DMA_READ, flags, error: 0, payload: arena, fds: [] });
    }
    expect(memory.access(false, 0 as Iova, target)).to.equal('done');
    expect([...target]).to.deep.equal([0xaa, 0xaa, 0xaa, 0xaa]);
  });
});
