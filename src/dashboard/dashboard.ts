/**
 * The dashboard of a run: a server on the loopback interface with the charts of the report, live. It ends with the run.
 *
 * Bounds: so many open pages, connections and pictures at once. A page that reads slowly misses states, it never delays the
 * run or fills memory.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, every } from '#host';
import {
  finalState,
  type LiveRecord,
  livePage,
  liveState,
  type PageState,
} from '../report/html/live-page.ts';
import type { RunRecord } from '../report/record.ts';

const HOST = '127.0.0.1';
/** Interval of new states. */
const STATE_INTERVAL_MS = 1000;
/** Maximum count of pages that follow the run, and of connections. */
export const PAGES_LIMIT = 8;
const CONNECTIONS_LIMIT = 64;
/** Time limit for pages to read the last state. */
const END_TIMEOUT_MS = 2000;

/** The run, as the dashboard needs it. */
export interface DashboardRun {
  /** The record of the run so far. */
  record(): LiveRecord;
  /** Resolves to a PNG. @throws Error with the reason why there is no picture */
  screenshot(vm: number, device: number): Promise<Uint8Array>;
}

export class Dashboard {
  readonly #server: Server;
  readonly #pages = new Set<ServerResponse>();
  readonly #stopStates: () => void;
  #run: DashboardRun | undefined;
  #last: PageState | undefined;

  private constructor(server: Server) {
    this.#server = server;
    server.maxConnections = CONNECTIONS_LIMIT;
    // Neither the server nor an open page keeps a process alive whose run has failed.
    server.unref();
    server.on('connection', (socket) => socket.unref());
    server.on('request', (request: IncomingMessage, response: ServerResponse) => {
      this.#serve(request, response).catch((error: Error) => refuse(response, 500, error.message));
    });
    this.#stopStates = every(STATE_INTERVAL_MS, () => this.#sendState());
  }

  /** Starts the server. @param port 0 for any free one @throws the system's error, such as EADDRINUSE */
  static async start(port: number): Promise<Dashboard> {
    const server = createServer();
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, HOST, resolve);
    });
    // An error of one connection ends that connection alone.
    server.on('error', () => {});
    return new Dashboard(server);
  }

  get url(): string {
    return `http://${HOST}:${this.#port}/`;
  }

  /** Shows this run from now on. */
  show(run: DashboardRun): void {
    this.#run = run;
  }

  /** Sends the last state, that of the report, to all pages and ends the server. Bounded in time. */
  async end(record?: RunRecord): Promise<void> {
    this.#stopStates();
    const state = record && finalState(record);
    const read = [...this.#pages].map(
      (page) => new Promise<void>((resolve) => page.end(state && eventOf(state), () => resolve())),
    );
    await Promise.race([
      Promise.all(read),
      new Promise<void>((resolve) => void after(END_TIMEOUT_MS, resolve)),
    ]);
    this.#server.close();
    this.#server.closeAllConnections();
  }

  get #port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method, url = '/', headers } = request;
    // A page of another origin must not reach this server under a name of its own.
    if (headers.host !== `${HOST}:${this.#port}` && headers.host !== `localhost:${this.#port}`)
      return refuse(response, 403, `host ${headers.host}; accepted: ${HOST}:${this.#port}`);
    if (method !== 'GET') return refuse(response, 405, `${method}; accepted: GET`);
    if (!this.#run) return refuse(response, 503, 'the run has not started; load this page again');
    const [, row] = /^\/screenshot\/(\d{1,6})$/.exec(url) ?? [];
    if (url === '/') return send(response, 'text/html; charset=utf-8', livePage(this.#run.record()));
    if (url === '/events') return this.#follow(response);
    if (row !== undefined) return this.#screenshot(response, this.#run, Number(row));
    return refuse(response, 404, `${url}; accepted: /, /events, /screenshot/ROW`);
  }

  /** Adds a page that follows the run by server-sent events. */
  #follow(response: ServerResponse): void {
    if (this.#pages.size >= PAGES_LIMIT) {
      refuse(response, 503, `${PAGES_LIMIT} pages follow the run; close one of them`);
      return;
    }
    response.writeHead(200, { ...HEADERS, 'content-type': 'text/event-stream' });
    response.on('close', () => this.#pages.delete(response));
    response.on('error', () => this.#pages.delete(response));
    this.#pages.add(response);
    if (this.#run) response.write(eventOf(this.#last ?? liveState(this.#run.record())));
  }

  #sendState(): void {
    if (this.#pages.size === 0 || !this.#run) {
      this.#last = undefined;
      return;
    }
    this.#last = liveState(this.#run.record());
    const event = eventOf(this.#last);
    for (const page of this.#pages) if (!page.writableNeedDrain) page.write(event);
  }

  async #screenshot(response: ServerResponse, run: DashboardRun, row: number): Promise<void> {
    const device = run.record().timelines[row];
    if (!device)
      return refuse(response, 404, `vGPU ${row}; accepted: 0 to ${run.record().timelines.length - 1}`);
    try {
      send(response, 'image/png', await run.screenshot(device.vm, device.vgpu));
    } catch (error) {
      // Not an error of the page, whose console stays empty: the answer is a text in place of a picture.
      send(response, 'text/plain; charset=utf-8', (error as Error).message);
    }
  }
}

const HEADERS = {
  'cache-control': 'no-store',
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
} as const;

function send(response: ServerResponse, type: string, content: string | Uint8Array): void {
  response.writeHead(200, { ...HEADERS, 'content-type': type });
  response.end(content);
}

function refuse(response: ServerResponse, status: number, why: string): void {
  if (!response.headersSent)
    response.writeHead(status, { ...HEADERS, 'content-type': 'text/plain; charset=utf-8' });
  response.end(`${why}\n`);
}

const eventOf = (state: PageState): string => `data: ${JSON.stringify(state)}\n\n`;
