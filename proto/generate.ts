/**
 * Generates src/proto/schema.ts from mdevsim.proto (`npm run proto`): an interface for every message, and the code that
 * reads and writes it through protobufjs's minimal runtime. A test fails if the file is out of date.
 *
 * The code is static, because every device worker loads it. To build it from a descriptor at run time would cost a
 * worker about 35 ms of processor time, more than the whole start of an empty worker.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import protobuf from 'protobufjs';

const SOURCE = new URL('mdevsim.proto', import.meta.url);
export const TARGET: string = fileURLToPath(new URL('../src/proto/schema.ts', import.meta.url));

/** TypeScript type, default value and wire type of each scalar type. */
const SCALARS: Readonly<
  Record<string, { readonly type: string; readonly none: string; readonly wire: number }>
> = {
  uint32: { type: 'number', none: '0', wire: 0 },
  uint64: { type: 'number', none: '0', wire: 0 },
  bool: { type: 'boolean', none: 'false', wire: 0 },
  string: { type: 'string', none: "''", wire: 2 },
  bytes: { type: 'Uint8Array', none: 'NO_BYTES', wire: 2 },
  double: { type: 'number', none: '0', wire: 1 },
};
const WIRE_DELIMITED = 2;

const messageOf = (field: protobuf.Field): string | undefined =>
  field.resolvedType instanceof protobuf.Type ? field.resolvedType.name : undefined;

function scalarOf(field: protobuf.Field) {
  const scalar = SCALARS[field.type];
  if (!scalar)
    throw new Error(
      `${field.fullName}: type ${field.type} is not supported; accepted: ${Object.keys(SCALARS)}`,
    );
  return scalar;
}

/** Returns true for a packed field: proto3's encoding of repeated numbers. */
const isPacked = (field: protobuf.Field): boolean =>
  field.repeated && !messageOf(field) && scalarOf(field).wire === 0;

const tagOf = (field: protobuf.Field): number =>
  field.id * 8 + (messageOf(field) || isPacked(field) ? WIRE_DELIMITED : scalarOf(field).wire);

function interfaceOf(type: protobuf.Type): string {
  const fields = type.fieldsArray.map((field) => {
    const base = messageOf(field) ?? scalarOf(field).type;
    const optional = messageOf(field) && !field.repeated ? '?' : '';
    return `  readonly ${field.name}${optional}: ${field.repeated ? `readonly ${base}[]` : base};`;
  });
  if (fields.length === 0) return `export type ${type.name} = Record<string, never>;`;
  return `export interface ${type.name} {\n${fields.join('\n')}\n}`;
}

function writeField(field: protobuf.Field): string {
  const { name } = field;
  const tag = `w.uint32(${tagOf(field)})`;
  const message = messageOf(field);
  const one = (value: string) =>
    message ? `write${message}(${value}, ${tag}.fork()).ldelim();` : `${tag}.${field.type}(${value});`;
  if (isPacked(field))
    return `  if (m.${name}.length > 0) {\n    ${tag}.fork();\n    for (const value of m.${name}) w.${field.type}(value);\n    w.ldelim();\n  }`;
  if (field.repeated) return `  for (const value of m.${name}) ${one('value')}`;
  if (message) return `  if (m.${name} !== undefined) ${one(`m.${name}`)}`;
  const { none } = scalarOf(field);
  return `  if (${none === 'NO_BYTES' ? `m.${name}.length > 0` : `m.${name} !== ${none}`}) ${one(`m.${name}`)}`;
}

function readField(field: protobuf.Field): string {
  const { name } = field;
  const message = messageOf(field);
  const value = message ? `read${message}(r, r.uint32() + r.pos)` : readScalar(field.type);
  if (isPacked(field))
    return `      case ${tagOf(field)}:\n        for (const last = r.uint32() + r.pos; r.pos < last; ) ${name}.push(${value});\n        break;`;
  const store = field.repeated ? `${name}.push(${value})` : `m.${name} = ${value}`;
  return `      case ${tagOf(field)}:\n        ${store};\n        break;`;
}

/** Without its Long helper the library reads 64 bits as a number, which its types do not express. */
const readScalar = (type: string): string => (type === 'uint64' ? 'Number(r.uint64())' : `r.${type}()`);

function codecOf(type: protobuf.Type): string {
  const { name, fieldsArray: fields } = type;
  const lists = fields.filter((field) => field.repeated);
  const initial = fields
    .filter((field) => field.repeated || !messageOf(field))
    .map((field) => (field.repeated ? field.name : `${field.name}: ${scalarOf(field).none}`));
  const declared = lists.map(
    (field) => `  const ${field.name}: ${messageOf(field) ?? scalarOf(field).type}[] = [];`,
  );
  const unused = fields.length === 0 ? '_' : '';
  return [
    `export function write${name}(${unused}m: ${name}, w: Writer): Writer {`,
    ...fields.map(writeField),
    '  return w;',
    '}',
    '',
    `export function read${name}(r: Reader, end: number): ${name} {`,
    ...declared,
    `  const m: Draft<${name}> = { ${initial.join(', ')} };`,
    '  while (r.pos < end) {',
    '    const tag = r.uint32();',
    '    switch (tag) {',
    ...fields.map(readField),
    '      default:',
    '        r.skipType(tag & 7);',
    '    }',
    '  }',
    '  return m;',
    '}',
  ].join('\n');
}

/** Returns the code of the frame's messages: their types by field name, and the tag and codec of each. */
function bodiesOf(frame: protobuf.Type): string {
  const bodies = frame.oneofs.body?.fieldsArray ?? [];
  const row = (field: protobuf.Field) =>
    `  ${field.name}: { tag: ${tagOf(field)}, write: write${messageOf(field)}, read: read${messageOf(field)} },`;
  return [
    '/** Messages that a frame can carry, by the name of their field. */',
    `export interface FrameBodies {\n${bodies.map((f) => `  ${f.name}: ${messageOf(f)};`).join('\n')}\n}`,
    '',
    '/** Tags of the other fields of a frame. */',
    `export const FRAME_TAGS = { ${frame.fieldsArray
      .filter((field) => !field.partOf)
      .map((field) => `${field.name}: ${tagOf(field)}`)
      .join(', ')} } as const;`,
    '',
    '/** Codec of each message. */',
    `export const BODY_CODECS: {\n  readonly [K in keyof FrameBodies]: BodyCodec<FrameBodies[K]>;\n} = {\n${bodies.map(row).join('\n')}\n};`,
  ].join('\n');
}

const PREAMBLE = `// Generated from proto/mdevsim.proto by \`npm run proto\`; do not edit.
import type { Reader, Writer } from 'protobufjs/minimal.js';

type Draft<T> = { -readonly [K in keyof T]: T[K] };
const NO_BYTES = new Uint8Array();

/** Tag of a message in its frame, and its codec. \`end\` is the reader's position after the message. */
export interface BodyCodec<Body> {
  readonly tag: number;
  write(body: Body, w: Writer): Writer;
  read(r: Reader, end: number): Body;
}
`;

/** Returns the text of schema.ts before formatting. */
export function generateSchema(): string {
  const { root } = protobuf.parse(readFileSync(SOURCE, 'utf8'), { keepCase: false });
  root.resolveAll();
  const namespace = root.lookup('mdevsim') as protobuf.Namespace;
  const frame = namespace.lookupType('Frame');
  const types = namespace.nestedArray.filter((nested) => nested instanceof protobuf.Type && nested !== frame);
  return [
    PREAMBLE,
    ...types.map((type) => `${interfaceOf(type as protobuf.Type)}\n`),
    ...types.map((type) => `${codecOf(type as protobuf.Type)}\n`),
    bodiesOf(frame),
    '',
  ].join('\n');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(TARGET, generateSchema());
