/**
 * Corpus: faults of the field, rebuilt from public fixes.
 */
import type { CorpusEntry } from './entry.ts';

const FILE = 'test/corpus/programs/field.ts';

const entry = (
  id: string,
  [faulty, correct]: readonly [string, string],
  fault: string,
  rules: readonly string[],
): CorpusEntry => ({
  id: `field/${id}`,
  harness: `${FILE}#${faulty}`,
  correct: `${FILE}#${correct}`,
  fault,
  rules,
  budget: 2000,
});

export const FIELD: readonly CorpusEntry[] = [
  entry(
    'iotlb-refilled',
    ['refilled', 'refillGuarded'],
    'An IOTLB entry is filled again between the invalidation and the edit of the table.',
    ['R6'],
  ),
  entry(
    'shadow-kept',
    ['shadowKept', 'shadowChecked'],
    'A shadow entry is written after the guest has mapped another page there.',
    ['R6'],
  ),
  entry(
    'fault-partly-read',
    ['faultPartly', 'faultWhole'],
    'The valid bit of a fault record is stored before its words.',
    ['whole record'],
  ),
  entry(
    'type-by-capacity',
    ['capacityTwice', 'capacityOnce'],
    'Two writers create the last instance of a type.',
    ['capacity'],
  ),
  entry(
    'late-release',
    ['releaseLate', 'releaseCompared'],
    "A late release clears the next owner's device.",
    ['owner kept'],
  ),
  entry(
    'handed-over-twice',
    ['handOverTwice', 'handOverOnce'],
    'The hand-over of a migration runs by its answer and by its time limit.',
    ['handed over once'],
  ),
  entry(
    'lost-request',
    ['requestLost', 'requestTaken'],
    'A request for a device is cleared together with an earlier one.',
    ['lost-wake'],
  ),
  entry(
    'notifier-lost',
    ['notifierLost', 'notifierKept'],
    'A notifier that comes while another one goes is lost.',
    ['notified'],
  ),
  entry(
    'replay-skips',
    ['replaySkips', 'replayAttached'],
    'A mapping between the replay and the attachment of the notifier is lost.',
    ['mapped'],
  ),
  entry(
    'pin-at-destroy',
    ['destroyKeepsPin', 'destroyDropsPin'],
    'A vGPU pins a page while it is destroyed, and nobody drops the pin.',
    ['pins balanced'],
  ),
];
