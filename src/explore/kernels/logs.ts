/**
 * Harnesses of the logs of written pages, and of the journal of a guest's script.
 */
import { GuestJournal, JournalLine } from '../../channel/guest-journal.ts';
import { type Hpa, type Iova, PAGE_SIZE, PERM_READ, PERM_RW } from '../../memory/address.ts';
import { RamLog } from '../../memory/ram-log.ts';
import { PinTableReader } from '../../pin-table/reader.ts';
import { PinTableWriter } from '../../pin-table/writer.ts';
import {
  ensure,
  explore,
  type Harness,
  ld,
  rd,
  type SharedWords,
  st,
  waitEq,
  wake,
  wordsOf,
  wr,
} from '../sdk.ts';

const WAIT_MS = 1000;
const PFN = 16;
const PAGE = 1;

/** Words of the page and of its copy, and whether the writing thread has ended. */
const CONTENT = 0;
const ENDED = 1;

interface Dirty {
  readonly table: PinTableWriter;
  readonly reader: PinTableReader;
  readonly page: SharedWords;
}

function dirtyTable(): Dirty {
  const table = new PinTableWriter(4, { hostPages: { first: PFN, count: 8 } });
  const reader = new PinTableReader(table.sab, table.addReader());
  table.map((PAGE * PAGE_SIZE) as Iova, (PFN * PAGE_SIZE) as Hpa, PAGE_SIZE, PERM_RW);
  return { table, reader, page: wordsOf(new SharedArrayBuffer(16)) };
}

/** Starts logging: after it, every section logs its writes. */
async function startLogging(table: PinTableWriter): Promise<void> {
  table.log.setLogging(true);
  table.bump();
  for (let waiting = table.waitDrained(WAIT_MS); waiting; waiting = table.waitDrained(WAIT_MS)) await waiting;
}

/** Copies the page as often as it is dirty, and once more when the device has ended. Returns the copy. */
async function migrate({ table, page }: Dirty): Promise<number> {
  await startLogging(table);
  let copy = rd(page, CONTENT, 'copy.read');
  if (table.log.take(PFN)) copy = rd(page, CONTENT, 'copy.read');
  waitEq(page, ENDED, 0, WAIT_MS, 'device.end');
  if (table.log.take(PFN)) copy = rd(page, CONTENT, 'copy.read');
  return copy;
}

function end(page: SharedWords): void {
  st(page, ENDED, 1, 'device.end');
  wake(page, ENDED, 'device.end');
}

const complete = ({ page }: Dirty, results: Readonly<Record<string, unknown>>): void => {
  const content = ld(page, CONTENT, 'copy.check');
  const { migration } = results;
  ensure(migration === content, 'dirty completeness', () => `the copy has ${migration}, the page ${content}`);
};

/** Writes of a device in sections, against a migration that copies the dirty page. */
export const dirtyWrites: Harness<Dirty> = explore({
  name: 'dirty-writes',
  setup: dirtyTable,
  threads: {
    migration: migrate,
    device: ({ reader, page }) => {
      for (let value = 1; value <= 3; value++) {
        reader.enter();
        const logged = reader.logsWrites;
        wr(page, CONTENT, value, 'device.write');
        if (logged) reader.markWritten(PFN);
        reader.exit();
      }
      end(page);
    },
  },
  check: complete,
});

/** Writes of a device through a pinned page, which it unpins. */
export const dirtyPins: Harness<Dirty> = explore({
  name: 'dirty-pins',
  setup: dirtyTable,
  threads: {
    migration: migrate,
    device: ({ reader, page }) => {
      for (let value = 1; value <= 2; value++) {
        const pfn = reader.pin(PAGE * PAGE_SIZE, PERM_READ);
        reader.noteHeld(pfn);
        wr(page, CONTENT, value, 'device.write');
        reader.noteReleased(pfn);
        reader.unpin(PAGE * PAGE_SIZE);
      }
      end(page);
    },
  },
  check: complete,
});

interface Ram {
  readonly log: RamLog;
  readonly page: SharedWords;
}

/** Writes of a guest's thread to RAM, against the harvests of a migration. */
export const ramLog: Harness<Ram> = explore({
  name: 'ram-log',
  setup: () => ({ log: RamLog.allocate(64 * PAGE_SIZE), page: wordsOf(new SharedArrayBuffer(16)) }),
  threads: {
    migration: ({ log, page }) => {
      let copy = rd(page, CONTENT, 'copy.read');
      const again = (): void => {
        log.harvest((at) => {
          if (at === PAGE) copy = rd(page, CONTENT, 'copy.read');
        });
      };
      if (log.take(PAGE)) copy = rd(page, CONTENT, 'copy.read');
      again();
      waitEq(page, ENDED, 0, WAIT_MS, 'device.end');
      again();
      return copy;
    },
    guest: ({ log, page }) => {
      for (let value = 1; value <= 3; value++) {
        wr(page, CONTENT, value, 'guest.write');
        log.mark(PAGE);
        log.mark(PAGE + 1);
      }
      end(page);
    },
  },
  check: ({ page }, { migration }) => {
    const content = ld(page, CONTENT, 'copy.check');
    ensure(
      migration === content,
      'dirty completeness',
      () => `the copy has ${migration}, the page ${content}`,
    );
  },
});

/** Lines of a journal, read while they are written. */
export const journalLines: Harness<GuestJournal> = explore({
  name: 'journal-lines',
  setup: () => new GuestJournal(),
  threads: {
    guest: (journal) => {
      journal.append(JournalLine.note, 'first line');
      journal.append(JournalLine.failure, 'second');
    },
    coordinator: (journal) => {
      const { notes, failures } = journal.read();
      const text = JSON.stringify([notes, failures]);
      const accepted = ['[[],[]]', '[["first line"],[]]', '[["first line"],["second"]]'];
      ensure(accepted.includes(text), 'every byte', () => `a journal reads ${text}`);
    },
  },
});

const STEPS = [2 ** 32 - 2, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 7];

/** A counter of a journal that grows beyond 32 bits, read while it grows. */
export const journalCounter: Harness<GuestJournal> = explore({
  name: 'journal-counter',
  setup: () => {
    const journal = new GuestJournal();
    journal.set('bytesVerified', STEPS[0]);
    return journal;
  },
  threads: {
    guest: (journal) => {
      for (const value of STEPS.slice(1)) journal.set('bytesVerified', value);
    },
    coordinator: (journal) => {
      const first = journal.get('bytesVerified');
      const second = journal.get('bytesVerified');
      ensure(STEPS.includes(first), 'whole counter', () => `a counter of ${STEPS.join(', ')} reads ${first}`);
      ensure(second >= first, 'whole counter', () => `a counter reads ${first}, then ${second}`);
    },
  },
});
