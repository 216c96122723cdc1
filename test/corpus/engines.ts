/**
 * Corpus: mutants of the engine slots of a GPU. Each reverses or drops one step of an ordering argument in the sources.
 */
import type { CorpusEntry } from './entry.ts';

const SLOT = 'src/gpu/engine-slot.ts';
const ENGINE = 'src/explore/kernels/engine.ts';
export const ENGINES: readonly CorpusEntry[] = [
  {
    id: 'engine/ring-before-owner',
    harness: `${ENGINE}#engineTurns`,
    patches: [
      {
        file: SLOT,
        find: "    st(this.#words, GpuWord.owner, this.#newTerm(slot), 'engine.owner');\n    this.#ring(slot);\n",
        replace:
          "    this.#ring(slot);\n    st(this.#words, GpuWord.owner, this.#newTerm(slot), 'engine.owner');\n",
      },
    ],
    fault: 'A hand-over rings the next owner before it stores the owner word.',
    rules: ['lost-wake'],
    budget: 4000,
  },
  {
    id: 'engine/want-after-owner',
    harness: `${ENGINE}#engineTurns`,
    patches: [
      {
        file: SLOT,
        find: "    this.#request();\n    // A second load: the owner before the bit was set may not have seen the bit.\n    return this.#claim(ld(this.#words, GpuWord.owner, 'engine.owner'));",
        replace: '    this.#request();\n    return this.#claim(owner);',
      },
    ],
    fault:
      'The owner word is read before the want bit is set, so an owner that frees the engine meanwhile rings nobody.',
    rules: ['lost-wake'],
    budget: 4000,
  },
  {
    id: 'engine/free-without-look',
    harness: `${ENGINE}#engineQueue`,
    patches: [
      {
        file: SLOT,
        find: '    if (!othersWant(words, -1)) return;\n    for (const slot',
        replace: '    if (rules) return;\n    for (const slot',
      },
      {
        file: SLOT,
        find: "    st(words, GpuWord.owner, FREE, 'engine.owner');\n",
        replace: "    st(words, GpuWord.owner, FREE, 'engine.owner');\n    const rules = true;\n",
      },
    ],
    fault: 'An owner that frees the engine does not look at the want bits again.',
    rules: ['lost-wake'],
    budget: 4000,
  },
  {
    id: 'engine/sequence-after-owner',
    harness: `${ENGINE}#engineTurns`,
    patches: [
      {
        file: ENGINE,
        find: "    const sequence = doorbell.sequence;\n    if (slot.acquire() !== 'granted') {\n",
        replace: "    if (slot.acquire() !== 'granted') {\n      const sequence = doorbell.sequence;\n",
      },
    ],
    fault:
      "A device reads its doorbell's sequence after the owner word, and sleeps through the hand-over in between.",
    rules: ['lost-wake'],
    budget: 4000,
  },
];
