/**
 * All entries of the corpus.
 */
import { CHANNELS } from './channels.ts';
import { CLASSICS } from './classics.ts';
import { ENGINES } from './engines.ts';
import type { CorpusEntry } from './entry.ts';
import { FIELD } from './field.ts';
import { LOGS_OF_PAGES } from './logs.ts';
import { PIN_TABLE } from './pin-table.ts';

export const CORPUS: readonly CorpusEntry[] = [
  ...PIN_TABLE,
  ...CHANNELS,
  ...LOGS_OF_PAGES,
  ...ENGINES,
  ...FIELD,
  ...CLASSICS,
];
