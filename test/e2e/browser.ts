/**
 * A headless Chromium for tests of the report and the dashboard. `CHROMIUM` replaces the path of Debian's.
 */
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import puppeteer, { type Browser, type Page } from 'puppeteer-core';
import { ROOT } from './run-command.ts';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
/** Folder of the screenshots, which git ignores. */
const SCREENSHOTS = join(ROOT, 'test-output');

/** The reason why no browser can be started; undefined if one can. */
export const noBrowser: string | undefined = existsSync(CHROMIUM)
  ? undefined
  : `there is no ${CHROMIUM} (Debian: apt-get install chromium)`;

const SIZES = [1280, 600] as const;
const SCHEMES = ['light', 'dark'] as const;

/** A page with what the tests refuse: errors in its console, and requests that leave it. */
export class WatchedPage {
  readonly page: Page;
  readonly errors: string[] = [];
  readonly #requests: string[] = [];

  constructor(page: Page) {
    this.page = page;
    page.on('console', (message) => {
      if (['error', 'warn'].includes(message.type())) this.errors.push(message.text());
    });
    page.on('pageerror', (error) => this.errors.push(String(error)));
    page.on('request', (request) => this.#requests.push(request.url()));
  }

  /** URLs of requests that do not begin with `origin`. */
  requestsBeyond(origin: string): string[] {
    return this.#requests.filter(
      (url) => ![origin, 'data:', `blob:${origin}`].some((own) => url.startsWith(own)),
    );
  }

  text(selector: string): Promise<string> {
    return this.page.$eval(selector, ({ textContent }) => textContent ?? '');
  }

  texts(selector: string): Promise<string[]> {
    return this.page.$$eval(selector, (all) => all.map(({ textContent }) => textContent ?? ''));
  }

  /** Returns the cells of rows, separated by spaces. */
  rows(selector: string): Promise<string[]> {
    return this.page.$$eval(selector, (rows) =>
      rows.map((row) =>
        [...row.children]
          .map(({ textContent }) => textContent)
          .join(' ')
          .trim(),
      ),
    );
  }

  /** Returns the count of colours in the canvas of a chart, up to 64, and the part of it that is painted. */
  painted(chart: string): Promise<{ readonly colours: number; readonly part: number }> {
    return this.page.$eval(`#${chart} canvas`, (element) => {
      const canvas = element as unknown as {
        width: number;
        height: number;
        getContext(kind: '2d'): { getImageData(...area: number[]): { data: Uint8ClampedArray } };
      };
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      const colours = new Set<number>();
      let painted = 0;
      for (let i = 0; i < data.length; i += 4) {
        if (data[i + 3] === 0) continue;
        painted++;
        const [red = 0, green = 0, blue = 0] = data.subarray(i, i + 3);
        if (colours.size < 64) colours.add((red << 16) | (green << 8) | blue);
      }
      return { colours: colours.size, part: painted / (data.length / 4) };
    });
  }

  /** Returns the picture of a chart. */
  picture(chart: string): Promise<string> {
    return this.page.$eval(`#${chart} canvas`, (canvas) =>
      (canvas as unknown as { toDataURL(): string }).toDataURL(),
    );
  }

  /** Returns the widest part of the page that is cut off or makes it scroll sideways, in pixels. */
  overflow(): Promise<number> {
    return this.page.evaluate(
      'document.documentElement.scrollWidth - document.documentElement.clientWidth',
    ) as Promise<number>;
  }

  /** Brings the page to the front, because one behind another is not drawn, and waits until it has been drawn. */
  async show(width: number, scheme: 'light' | 'dark'): Promise<void> {
    await this.page.bringToFront();
    await this.page.setViewport({ width, height: 900 });
    await this.page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
    await this.page.evaluate(
      'new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))',
    );
  }

  /** Writes screenshots of the whole page, wide and narrow, light and dark. Calls `check` in each. */
  async screenshots(name: string, check: () => Promise<void>): Promise<void> {
    mkdirSync(SCREENSHOTS, { recursive: true });
    for (const width of SIZES)
      for (const scheme of SCHEMES) {
        await this.show(width, scheme);
        await check();
        const path = join(SCREENSHOTS, `${name}-${width}-${scheme}.png`) as `${string}.png`;
        await this.page.screenshot({ path, fullPage: true });
      }
  }
}

/** Runs `use` with a new browser without any state, and ends it. */
export async function withBrowser(use: (open: () => Promise<WatchedPage>) => Promise<void>): Promise<void> {
  const profile = mkdtempSync(join(tmpdir(), 'mdevsim-chromium-'));
  let browser: Browser | undefined;
  try {
    browser = await puppeteer.launch({
      executablePath: CHROMIUM,
      headless: true,
      userDataDir: profile,
      args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
      ],
    });
    const opened = browser;
    await use(async () => new WatchedPage(await opened.newPage()));
  } finally {
    await browser?.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}
