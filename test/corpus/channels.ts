/**
 * Corpus: mutants of the channels between threads. Each reverses or drops one step of an ordering argument in the sources.
 */
import type { CorpusEntry } from './entry.ts';

const BELL = 'src/channel/doorbell.ts';
const RING = 'src/channel/frame-ring.ts';
const MMIO = 'src/channel/mmio-channel.ts';
const PEER = 'src/channel/peer-block.ts';
const LINKS = 'src/explore/kernels/links.ts';

export const CHANNELS: readonly CorpusEntry[] = [
  {
    id: 'doorbell/bit-after-sequence',
    harness: `${LINKS}#doorbell`,
    patches: [
      {
        file: BELL,
        find: `    or(this.#words, WORD_PENDING + (sender >>> 5), 1 << (sender & 31), 'doorbell.pending');
    add(this.#words, WORD_SEQUENCE, 1, 'doorbell.sequence');
    wake(`,
        replace: `    add(this.#words, WORD_SEQUENCE, 1, 'doorbell.sequence');
    wake(this.#words, WORD_SEQUENCE, 'doorbell.wait');
    or(this.#words, WORD_PENDING + (sender >>> 5), 1 << (sender & 31), 'doorbell.pending');
    if (sender < 0) wake(`,
      },
    ],
    fault:
      'A sender sets its bit after it has changed the sequence, so the waiter sleeps on a taken sequence.',
    rules: ['lost-wake'],
    budget: 2000,
  },
  {
    id: 'doorbell/no-notify',
    harness: `${LINKS}#doorbell`,
    patches: [{ file: BELL, find: "    wake(this.#words, WORD_SEQUENCE, 'doorbell.wait');\n", replace: '' }],
    fault: 'A ring does not wake a waiter that already sleeps.',
    rules: ['lost-wake'],
    budget: 2000,
  },
  {
    id: 'doorbell/take-before-sequence',
    harness: `${LINKS}#doorbell`,
    patches: [
      {
        file: LINKS,
        find: '    const sequence = doorbell.sequence;\n    doorbell.take((sender) => {\n      done = serve(sender) || done;\n    });\n',
        replace:
          '    doorbell.take((sender) => {\n      done = serve(sender) || done;\n    });\n    const sequence = doorbell.sequence;\n',
      },
    ],
    fault: 'The waiter reads the sequence after it has taken the bits.',
    rules: ['lost-wake'],
    budget: 2000,
  },
  {
    id: 'doorbell/load-and-store-for-exchange',
    harness: `${LINKS}#doorbell`,
    patches: [
      {
        file: BELL,
        find: "let bits = xchg(this.#words, WORD_PENDING + word, 0, 'doorbell.pending');",
        replace:
          "let bits = ld(this.#words, WORD_PENDING + word, 'doorbell.pending'); xchg(this.#words, WORD_PENDING + word, 0, 'doorbell.pending');",
      },
    ],
    fault: 'The bits are read and then cleared, so a bit that is set in between is lost.',
    rules: ['lost-wake'],
    budget: 2000,
  },
  {
    id: 'doorbell/lost-bit',
    harness: `${LINKS}#doorbell`,
    patches: [
      {
        file: BELL,
        find: "or(this.#words, WORD_PENDING + (sender >>> 5), 1 << (sender & 31), 'doorbell.pending');",
        replace:
          "const set = ld(this.#words, WORD_PENDING + (sender >>> 5), 'doorbell.pending'); xchg(this.#words, WORD_PENDING + (sender >>> 5), set | (1 << (sender & 31)), 'doorbell.pending');",
      },
    ],
    fault: 'Two senders that set their bits at once overwrite each other.',
    rules: ['lost-wake'],
    budget: 2000,
  },
  {
    id: 'frame-ring/head-before-bytes',
    harness: `${LINKS}#frameRing`,
    patches: [
      {
        file: RING,
        find: "    wr(this.#words, HEADER_BYTES / 4 + this.#at(written) / 4, frame.length, 'ring.slot');",
        replace:
          "    st(this.#words, WORD_WRITTEN, (written + size) | 0, 'ring.head');\n    wr(this.#words, HEADER_BYTES / 4 + this.#at(written) / 4, frame.length, 'ring.slot');",
      },
    ],
    fault: 'The producer publishes a frame before its bytes.',
    rules: ['FIFO', 'error'],
    budget: 2000,
  },
  {
    id: 'frame-ring/tail-before-copy',
    harness: `${LINKS}#frameRing`,
    patches: [
      {
        file: RING,
        find: '    const frame = new Uint8Array(length);',
        replace:
          "    st(this.#words, WORD_READ, (read + LENGTH_BYTES + ((length + 3) & ~3)) | 0, 'ring.tail');\n    const frame = new Uint8Array(length);",
      },
    ],
    fault: 'The consumer frees the space of a frame before it has copied the bytes out.',
    rules: ['FIFO'],
    budget: 2000,
  },
  {
    id: 'frame-ring/room-without-length',
    harness: `${LINKS}#frameRing`,
    patches: [
      {
        file: RING,
        find: 'if (used + size > this.#capacity) {',
        replace: 'if (used + size - LENGTH_BYTES > this.#capacity) {',
      },
    ],
    fault: 'The check for room forgets the word of the length.',
    rules: ['FIFO', 'error', 'lost-wake'],
    budget: 2000,
  },
  {
    id: 'mmio/tail-before-entry',
    harness: `${LINKS}#mmio`,
    patches: [
      {
        file: MMIO,
        find: '    const at = WORD_ENTRIES + ((tail >>> 0) % MMIO_RING_ENTRIES) * ENTRY_WORDS;\n    wr(',
        replace:
          "    const at = WORD_ENTRIES + ((tail >>> 0) % MMIO_RING_ENTRIES) * ENTRY_WORDS;\n    st(this.#words, WORD_TAIL, (tail + 1) | 0, 'ring.tail');\n    wr(",
      },
    ],
    fault: 'An entry is published before its words.',
    rules: ['FIFO', 'lost-wake', 'error'],
    budget: 2000,
  },
  {
    id: 'mmio/answer-before-value',
    harness: `${LINKS}#mmio`,
    patches: [
      {
        file: MMIO,
        find: "    wr(this.#words, WORD_REPLY_LOW, Number(BigInt.asIntN(32, value)), 'link.word');",
        replace:
          "    st(this.#words, WORD_REPLY_SEQUENCE, rd(this.#words, at + 6, 'ring.slot'), 'link.word');\n    wr(this.#words, WORD_REPLY_LOW, Number(BigInt.asIntN(32, value)), 'link.word');",
      },
    ],
    fault: 'The sequence of an answer is stored before the value.',
    rules: ['FIFO'],
    budget: 4000,
  },
  {
    id: 'mmio/no-notify',
    harness: `${LINKS}#mmio`,
    patches: [
      {
        file: MMIO,
        find: "'link.word');\n    wake(this.#words, WORD_REPLY_SEQUENCE, 'link.wait');\n  }\n",
        replace: "'link.word');\n  }\n",
      },
    ],
    fault: 'An answer does not wake the guest.',
    rules: ['lost-wake'],
    budget: 2000,
  },
  {
    id: 'mmio/wait-after-flag',
    harness: `${LINKS}#mmioClose`,
    patches: [
      {
        file: MMIO,
        find: "    add(this.#words, WORD_REPLY_SEQUENCE, 1, 'link.word');\n    wake(",
        replace: '    wake(',
      },
    ],
    fault:
      'close() does not change the word that a guest waits on, so a guest that has read the flag sleeps.',
    rules: ['lost-wake'],
    budget: 2000,
  },
  {
    id: 'peers/withdraw-by-store',
    harness: `${LINKS}#peers`,
    patches: [
      {
        file: PEER,
        find: "return cas(this.#words, WORD_STATE, PENDING + target, IDLE, 'peer.state') === PENDING + target;",
        replace:
          "if (ld(this.#words, WORD_STATE, 'peer.state') !== PENDING + target) return false;\n    st(this.#words, WORD_STATE, IDLE, 'peer.state');\n    return true;",
      },
    ],
    fault: 'A requester takes its request back by a load and a store, while the target takes it.',
    rules: ['served once'],
    budget: 2000,
  },
  {
    id: 'peers/take-by-store',
    harness: `${LINKS}#peers`,
    patches: [
      {
        file: PEER,
        find: "    if (cas(this.#words, WORD_STATE, PENDING + self, TAKEN, 'peer.state') !== PENDING + self)\n      return undefined;",
        replace:
          "    if (ld(this.#words, WORD_STATE, 'peer.state') !== PENDING + self) return undefined;\n    st(this.#words, WORD_STATE, TAKEN, 'peer.state');",
      },
    ],
    fault:
      'A target takes a request by a load and a store, while another one takes it or its requester gives it up.',
    rules: ['served once', 'every byte'],
    budget: 2000,
  },
  {
    id: 'peers/state-before-bytes',
    harness: `${LINKS}#peers`,
    patches: [
      {
        file: PEER,
        find: "    if (done && !isWrite) copyIn(this.#bytes, 0, bytes, 0, bytes.length, 'peer.request');\n    const state = cas(this.#words, WORD_STATE, TAKEN, done ? DONE : REFUSED, 'peer.state');",
        replace:
          "    const state = cas(this.#words, WORD_STATE, TAKEN, done ? DONE : REFUSED, 'peer.state');\n    if (done && !isWrite) copyIn(this.#bytes, 0, bytes, 0, bytes.length, 'peer.request');",
      },
    ],
    fault: 'An answer is published before its bytes.',
    rules: ['every byte'],
    budget: 2000,
  },
  {
    id: 'peers/events-before-answer',
    harness: `${LINKS}#peers`,
    patches: [
      {
        file: LINKS,
        find: '      const events = block.events;\n      const outcome = block.answer(request);\n',
        replace: '      const outcome = block.answer(request);\n      const events = block.events;\n',
      },
      {
        file: LINKS,
        find: '  timeouts: true,\n  check: ({ memory }) => {',
        replace: '  check: ({ memory }) => {',
      },
    ],
    correct: `${LINKS}#peers`,
    fault:
      'A requester reads the events after it has looked for the answer, and sleeps although it is there.',
    rules: ['lost-wake'],
    budget: 2000,
  },
];
