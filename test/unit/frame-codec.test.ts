/**
 * The frame codec and the generated protobuf schema.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import protobuf from 'protobufjs';
import { generateSchema, TARGET } from '../../proto/generate.ts';
import {
  bodyToJson,
  decodeFrame,
  encodeFrame,
  FRAME_BYTES_LIMIT,
  type Frame,
  FrameError,
  type FrameKind,
} from '../../src/proto/codec.ts';

describe('frame codec', () => {
  const header = fc.record({
    timeUs: fc.maxSafeNat(),
    process: fc.nat(0xffff),
    vm: fc.nat(0xffff),
    device: fc.integer({ min: -1, max: 0xffff }),
  });

  it('round-trips every frame, with addresses exact to 2^53', () => {
    fc.assert(
      fc.property(
        header,
        fc.maxSafeNat(),
        fc.maxSafeNat(),
        fc.string(),
        fc.boolean(),
        (head, iova, size, text, flag) => {
          const frames: [Uint8Array, string, Record<string, unknown>][] = [
            [encodeFrame(head, 'dmaUnmap', { iova, size }), 'dmaUnmap', { iova, size }],
            [encodeFrame(head, 'guestPhase', { name: text }), 'guestPhase', { name: text }],
            [
              encodeFrame(head, 'dmaFault', { iova, write: flag, denied: !flag }),
              'dmaFault',
              { iova, write: flag, denied: !flag },
            ],
            [encodeFrame(head, 'deviceStop', {}), 'deviceStop', {}],
          ];
          for (const [bytes, kind, body] of frames) {
            const frame = decodeFrame(bytes);
            expect(frame.header).to.deep.equal(head);
            expect(frame.kind).to.equal(kind);
            expect(bodyToJson(frame)).to.deep.equal(body);
          }
        },
      ),
    );
  });

  it('round-trips nested and repeated messages', () => {
    const counts = { pins: 5, unpins: 6, faults: 7, faultsDropped: 8, stalls: 9, interrupts: 10 };
    const body = {
      ...counts,
      unimplemented: [
        { bar: 0, offset: 0x80, write: false, count: 2 },
        { bar: 2, offset: 0x84, write: true, count: 1 },
      ],
      unimplementedOthers: 3,
      metrics: [{ name: 'commands', value: 1 }],
    };
    const bytes = encodeFrame({ timeUs: 1, process: 0, vm: 0, device: 3 }, 'deviceReport', body);
    expect(bodyToJson(decodeFrame(bytes))).to.deep.equal(body);
  });

  /** Decodes any bytes to a frame or undefined. Only FrameError may be thrown. */
  const tryDecode = (bytes: Uint8Array): Frame | undefined => {
    try {
      return decodeFrame(bytes);
    } catch (error) {
      expect(error).to.be.instanceOf(FrameError);
      return undefined;
    }
  };

  it('throws only FrameError for garbage', () => {
    const valid = encodeFrame({ timeUs: 1e15, process: 1, vm: 2, device: 3 }, 'violation', {
      kind: 'use-after-unpin',
      detail: 'HPA 0x1',
      repeats: 1,
    });
    const damaged = fc
      .tuple(fc.nat(valid.length - 1), fc.nat(255), fc.nat(valid.length))
      .map(([at, byte, end]) => {
        const bytes = valid.slice(0, end);
        if (at < end) bytes[at] = byte;
        return bytes;
      });
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), damaged), (bytes) => void tryDecode(bytes)),
      {
        numRuns: 5000,
      },
    );
  });

  it('throws FrameError for endless nesting, an empty frame and an oversized one', () => {
    for (const bytes of [
      new Uint8Array(1 << 20).fill(0x0b),
      new Uint8Array(0),
      new Uint8Array(FRAME_BYTES_LIMIT + 1),
    ])
      expect(() => decodeFrame(bytes)).to.throw(FrameError);
    expect(() => decodeFrame(new Uint8Array(FRAME_BYTES_LIMIT + 1))).to.throw(`up to ${FRAME_BYTES_LIMIT}`);
  });
});

describe('schema.ts', () => {
  it('equals the output of npm run proto', () => {
    const biome = fileURLToPath(new URL('../../node_modules/@biomejs/biome/bin/biome', import.meta.url));
    const { stdout, status } = spawnSync(
      process.execPath,
      [biome, 'check', '--write', `--stdin-file-path=${TARGET}`],
      { input: generateSchema(), encoding: 'utf8' },
    );
    expect(status).to.equal(0);
    expect(readFileSync(TARGET, 'utf8')).to.equal(stdout);
  });

  it("writes and reads the same bytes as protobufjs's own reflection", () => {
    const { root } = protobuf.parse(
      readFileSync(new URL('../../proto/mdevsim.proto', import.meta.url), 'utf8'),
    );
    const frameType = root.lookupType('mdevsim.Frame');
    const bodies = frameType.oneofs.body?.fieldsArray ?? [];
    fc.assert(
      fc.property(
        fc.constantFrom(...bodies).chain((field) => fc.tuple(fc.constant(field), arbitraryMessage(field))),
        ([field, body]) => {
          const kind = field.name as FrameKind;
          const header = { timeUs: 1_790_000_000_000_000, process: 3, vm: 2, device: 1 };
          const bytes = encodeFrame(header, kind, body as never);
          const ours = decodeFrame(bytes);
          expect({ ...(ours.body as object) }).to.deep.equal(body);
          const theirs = frameType.decode(bytes) as unknown as Record<string, unknown>;
          expect(theirs.body).to.equal(kind);
          expect(Buffer.from(frameType.encode(theirs as never).finish())).to.deep.equal(Buffer.from(bytes));
        },
      ),
    );
  });
});

/** Returns an arbitrary message of a field's type, with every scalar present. */
function arbitraryMessage(field: protobuf.Field): fc.Arbitrary<Record<string, unknown>> {
  const type = field.resolve().resolvedType as protobuf.Type;
  return fc.record(Object.fromEntries(type.fieldsArray.map((inner) => [inner.name, arbitraryField(inner)])));
}

function arbitraryField(field: protobuf.Field): fc.Arbitrary<unknown> {
  field.resolve();
  const scalars: Record<string, fc.Arbitrary<unknown>> = {
    uint32: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    uint64: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
    bool: fc.boolean(),
    string: fc.string({ unit: 'grapheme' }),
    bytes: fc.uint8Array().map((bytes) => Buffer.from(bytes)),
    double: fc.double({ noNaN: true }).map((number) => number + 0), // without -0
  };
  const one = field.resolvedType ? arbitraryMessage(field) : (scalars[field.type] as fc.Arbitrary<unknown>);
  return field.repeated ? fc.array(one, { maxLength: 4 }) : one;
}
