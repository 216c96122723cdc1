/**
 * The metric and the stage that the charts of latencies show, chosen in two lists.
 */
import type { PageModel } from '../page-model.ts';

const ALL_STAGES = 'all stages';

export class Selection {
  metric = '';
  stage = '';
  readonly #metrics: HTMLSelectElement;
  readonly #stages: HTMLSelectElement;
  readonly #listeners: (() => void)[] = [];
  #model: PageModel | undefined;
  /** False until the user has chosen: metrics that come first may appear later. */
  #isChosen = false;

  constructor(metrics: HTMLSelectElement, stages: HTMLSelectElement) {
    this.#metrics = metrics;
    this.#stages = stages;
    metrics.addEventListener('change', () => this.#choose(metrics.value, this.stage));
    stages.addEventListener('change', () => this.#choose(this.metric, stages.value));
  }

  onChange(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** Offers what the model has; keeps the choice, if it is still there. */
  update(model: PageModel): void {
    this.#model = model;
    this.#offer();
  }

  #choose(metric: string, stage: string): void {
    this.#isChosen = true;
    [this.metric, this.stage] = [metric, stage];
    this.#offer();
    for (const listener of this.#listeners) listener();
  }

  #offer(): void {
    const trends = this.#model?.trends ?? [];
    const metrics = [...new Set(trends.map(({ metric }) => metric))];
    if (!this.#isChosen || !metrics.includes(this.metric)) this.metric = metrics[0] ?? '';
    const stages = trends.filter(({ metric }) => metric === this.metric).map(({ stage }) => stage);
    if (!stages.includes(this.stage)) this.stage = stages[0] ?? '';
    fill(this.#metrics, metrics, this.metric);
    fill(this.#stages, stages, this.stage);
    this.#stages.hidden = stages.length < 2;
  }
}

function fill(list: HTMLSelectElement, values: readonly string[], chosen: string): void {
  const present = [...list.options].map(({ value }) => value);
  if (present.join() !== values.join())
    list.replaceChildren(
      ...values.map((value) => {
        const option = document.createElement('option');
        option.value = value;
        option.textContent = value || ALL_STAGES;
        return option;
      }),
    );
  list.value = chosen;
}
