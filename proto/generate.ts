/**
 * Writes src/channel/schema.ts from mdevsim.proto: TypeScript interfaces for every message, and the descriptor that
 * the codec loads without parsing. `npm run proto`; a test fails when the file is out of date.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import protobuf from 'protobufjs';

const SOURCE = new URL('mdevsim.proto', import.meta.url);
export const TARGET: string = fileURLToPath(new URL('../src/channel/schema.ts', import.meta.url));

const SCALARS: Readonly<Record<string, string>> = { string: 'string', bool: 'boolean', bytes: 'Uint8Array' };

function fieldType(field: protobuf.Field): string {
  const base =
    field.resolvedType instanceof protobuf.Type ? field.resolvedType.name : (SCALARS[field.type] ?? 'number');
  return field.repeated ? `readonly ${base}[]` : base;
}

function interfaceOf(type: protobuf.Type): string {
  const fields = type.fieldsArray.map((field) => {
    const optional = field.resolvedType && !field.repeated ? '?' : '';
    return `  readonly ${field.name}${optional}: ${fieldType(field)};`;
  });
  return fields.length === 0
    ? `export type ${type.name} = Record<string, never>;`
    : `export interface ${type.name} {\n${fields.join('\n')}\n}`;
}

/** The text of schema.ts. */
export function generateSchema(): string {
  const { root } = protobuf.parse(readFileSync(SOURCE, 'utf8'), { keepCase: false });
  root.resolveAll();
  const namespace = root.lookup('mdevsim') as protobuf.Namespace;
  const types = namespace.nestedArray.filter((nested) => nested instanceof protobuf.Type);
  const frame = namespace.lookupType('Frame');
  const bodies = frame.oneofs.body!.fieldsArray;
  return [
    '// Generated from proto/mdevsim.proto by `npm run proto`; do not edit.',
    '',
    ...types.filter((type) => type !== frame).map((type) => `${interfaceOf(type)}\n`),
    '/** The messages a frame can carry, by the name of their field. */',
    `export interface FrameBodies {\n${bodies.map((f) => `  ${f.name}: ${fieldType(f)};`).join('\n')}\n}`,
    '',
    `export const DESCRIPTOR: string =\n  '${JSON.stringify(root.toJSON())}';`,
    '',
  ].join('\n');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(TARGET, generateSchema());
