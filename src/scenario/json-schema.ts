/**
 * The JSON Schema of scenario files (draft 2020-12), for editors and validators.
 *
 * It describes what a file may contain. Conditions between settings, such as a stage's group, are checked by a run.
 */
import { z } from 'zod';
import { METRICS } from '../metrics/catalogue.ts';
import { scenarioShape } from './scenario.ts';

/** A JSON Schema, as far as this project reads it. */
export interface JsonSchema {
  readonly $schema?: string;
  readonly title?: string;
  readonly type?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly pattern?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly multipleOf?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly additionalProperties?: JsonSchema | boolean;
  readonly propertyNames?: JsonSchema;
  readonly required?: readonly string[];
  readonly items?: JsonSchema;
  readonly oneOf?: readonly JsonSchema[];
  readonly anyOf?: readonly JsonSchema[];
}

/** Returns the JSON Schema of a data file, which JSON files name as `$schema`. */
export function scenarioJsonSchema(): JsonSchema {
  const schema = z.toJSONSchema(scenarioShape, {
    target: 'draft-2020-12',
    io: 'input',
    reused: 'inline',
  }) as JsonSchema & { readonly $schema: string };
  const { $schema, properties = {}, required = [], ...rest } = schema;
  return {
    $schema,
    title: 'mdevsim scenario',
    ...rest,
    required: [...required, 'load'], // a data file has no script
    properties: {
      $schema: { type: 'string', description: 'JSON Schema of this file' },
      ...properties,
      thresholds: { ...properties.thresholds, propertyNames: selectorNames() },
    },
  };
}

/** Returns the schema of selectors. A data file has no metrics of its own; the list serves editors. */
function selectorNames(): JsonSchema {
  const names = Object.keys(METRICS);
  return { anyOf: [{ enum: names }, { type: 'string', pattern: `^(${names.join('|')})\\{.*\\}$` }] };
}
