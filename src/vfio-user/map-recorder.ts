/**
 * Recorder of a client's DMA maps, as a capture that `mdevsim replay` reads (docs/captures.md). Each connection has a file
 * of its own. A file without its last line is not complete: the capture was cut at its limit.
 */
import { fstatSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { nowUs } from '#host';
import { hex } from '../memory/address.ts';
import { closeFile, own } from './linux.ts';

/** Most lines of one capture; the reader accepts a million. */
const LINES_LIMIT = 900_000;
/** Characters that are kept before they are written. */
const BUFFER_CHARACTERS = 65_536;

/** A DMA_MAP that was performed. */
interface RecordedMap {
  readonly argsz: number;
  readonly flags: number;
  readonly offset: bigint;
  readonly address: bigint;
  readonly size: bigint;
}

/** A DMA_UNMAP that was performed. */
type RecordedUnmap = Omit<RecordedMap, 'offset'>;

/** Records one connection after the other. */
export class MapRecorder {
  readonly #folder: string;
  readonly #name: string;
  #fd = -1;
  #connections = 0;
  #lines = 0;
  #lastUs = 0;
  #text = '';
  #hasMemory = false;

  /** Creates the folder. @throws an error of the file system */
  constructor(folder: string, name: string) {
    [this.#folder, this.#name] = [folder, name];
    mkdirSync(folder, { recursive: true });
  }

  /** Begins the file of a connection. */
  begin(): void {
    const capture = `${this.#name}-${this.#connections++}`;
    this.#fd = own(openSync(join(this.#folder, `${capture}.jsonl`), 'w'));
    [this.#lines, this.#lastUs, this.#hasMemory] = [0, nowUs(), false];
    this.#text = `${JSON.stringify({ capture, source: 'mdevsim serve', config: { viommu: '' } })}\n`;
    this.#add({ ev: 'accept', conn: 0 });
  }

  /** Records a map; `fd` is its memory file. */
  map(id: number, { argsz, flags, offset, address, size }: RecordedMap, fd: number | undefined): void {
    if (this.#fd < 0) return;
    if (fd !== undefined && !this.#hasMemory) {
      this.#hasMemory = true;
      this.#add({ ev: 'mmap', size: hex(fstatSync(fd).size) });
    }
    const range = { offset: hex(offset), iova: hex(address), size: hex(size) };
    this.#add({ cmd: 'DMA_MAP', id, hasFd: fd === undefined ? 0 : 1, argsz, flags, ...range });
  }

  /** Records an unmap that has removed `removed` maps. */
  unmap(id: number, { argsz, flags, address, size }: RecordedUnmap, removed: number): void {
    if (this.#fd < 0) return;
    const range = { iova: hex(address), size: hex(size) };
    this.#add({ cmd: 'DMA_UNMAP', id, hasFd: 0, argsz, flags, ...range, rangeDeleted: removed });
  }

  /** Ends the file of a connection, whose client left `liveMaps` maps. */
  end(liveMaps: number): void {
    if (this.#fd < 0) return;
    this.#add({ ev: 'eof', liveMaps });
    this.#close();
  }

  #add(line: object): void {
    if (++this.#lines > LINES_LIMIT) {
      this.#close();
      return;
    }
    const now = nowUs();
    this.#text += `${JSON.stringify({ t_us: Math.round(now - this.#lastUs), ...line })}\n`;
    this.#lastUs = now;
    if (this.#text.length >= BUFFER_CHARACTERS) this.#flush();
  }

  #flush(): void {
    writeSync(this.#fd, this.#text);
    this.#text = '';
  }

  #close(): void {
    this.#flush();
    closeFile(this.#fd);
    this.#fd = -1;
  }
}
