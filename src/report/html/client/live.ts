/**
 * The live part of the dashboard: new states of the run, and pictures of its vGPUs.
 */
import type { PageModel } from '../page-model.ts';

interface State {
  /** HTML in which every text of the run is escaped. */
  readonly status: string;
  readonly details: string;
  readonly model: PageModel;
  readonly ended: boolean;
}

const byId = <Kind extends HTMLElement>(id: string): Kind => document.getElementById(id) as Kind;

/** Shows each state of the run until it ends. The page then keeps the last one. */
export function followRun(show: (model: PageModel) => void): void {
  const source = new EventSource('events');
  const devices = byId<HTMLSelectElement>('screen-device');
  source.addEventListener('message', ({ data }) => {
    const { status, details, model, ended } = JSON.parse(data as string) as State;
    byId('status').innerHTML = status;
    byId('details').innerHTML = details;
    if (devices.options.length !== model.vgpus.length)
      devices.replaceChildren(...model.vgpus.map((name, row) => new Option(name, String(row))));
    show(model);
    if (!ended) return;
    source.close();
    byId<HTMLButtonElement>('screen-take').disabled = true;
    byId('screen-readout').textContent = 'The run has ended.';
  });
  source.addEventListener('error', () => {
    if (source.readyState !== EventSource.OPEN) byId('lost')?.removeAttribute('hidden');
  });
  byId('screen-take').addEventListener('click', () => void takeScreenshot(devices.value));
}

/** Fetches a picture and shows it, or the reason why it is missing. */
async function takeScreenshot(row: string): Promise<void> {
  const [place, readout] = [byId('screen'), byId('screen-readout')];
  const button = byId<HTMLButtonElement>('screen-take');
  button.disabled = true;
  readout.textContent = 'waits for the vGPU …';
  try {
    const answer = await fetch(`screenshot/${row}`);
    if (!answer.ok || answer.headers.get('content-type') !== 'image/png') {
      place.replaceChildren();
      readout.textContent = await answer.text();
    } else {
      const image = new Image();
      image.src = URL.createObjectURL(await answer.blob());
      await image.decode();
      URL.revokeObjectURL(image.src);
      place.replaceChildren(image);
      readout.textContent = `${image.naturalWidth} × ${image.naturalHeight} pixels`;
    }
  } catch (error) {
    readout.textContent = error instanceof Error ? error.message : String(error);
  }
  button.disabled = false;
}
