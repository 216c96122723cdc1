/**
 * Adapters of a migration stream in a model's own format to the reader and writer of the runtime's format.
 */
import type { ModelStream } from '../model.ts';
import type { DeviceStreamPart } from './stream-writer.ts';

/** Writer of a model's own stream. The part after the stop begins anew. */
export class ModelStreamWriter {
  readonly #stream: ModelStream;

  constructor(stream: ModelStream) {
    this.#stream = stream;
    stream.begin(false);
  }

  stop(): void {
    this.#stream.begin(true);
  }

  close(): void {}

  read(maxBytes: number): DeviceStreamPart {
    const data = this.#stream.read(maxBytes);
    return { data, end: data.length < maxBytes, initialBytes: 0, dirtyBytes: 0 };
  }
}
