/**
 * The parts of the ESTree syntax that the transform reads.
 */
import type { Node } from 'acorn';

/** A node with the properties of all kinds. The transform tests `type` before it reads one. */
export interface AnyNode extends Node {
  readonly name: string;
  readonly kind: string;
  readonly key: AnyNode;
  readonly value: AnyNode;
  readonly id: AnyNode | null;
  readonly body: AnyNode;
  readonly params: readonly AnyNode[];
  readonly callee: AnyNode;
  readonly object: AnyNode;
  readonly property: AnyNode;
  readonly expression: AnyNode;
  readonly arguments: readonly AnyNode[];
  readonly argument: AnyNode | null;
  readonly left: AnyNode;
  readonly right: AnyNode;
  readonly init: AnyNode | null;
  readonly source: AnyNode | null;
  readonly specifiers: readonly AnyNode[];
  readonly imported: AnyNode;
  readonly local: AnyNode;
  readonly properties: readonly AnyNode[];
  readonly elements: readonly (AnyNode | null)[];
  readonly declarations: readonly AnyNode[];
  readonly operator: string;
  readonly async: boolean;
  readonly await: boolean;
  readonly generator: boolean;
  readonly computed: boolean;
  readonly optional: boolean;
  readonly method: boolean;
  readonly static: boolean;
  readonly delegate: boolean;
}

const FUNCTIONS = new Set(['FunctionDeclaration', 'FunctionExpression', 'ArrowFunctionExpression']);

export const isFunction = (node: AnyNode): boolean => FUNCTIONS.has(node.type);

const isNode = (value: unknown): value is AnyNode =>
  typeof value === 'object' && value !== null && typeof (value as { type?: unknown }).type === 'string';

/** Returns the child nodes in the order of the source. */
export function childrenOf(node: AnyNode): AnyNode[] {
  const children: AnyNode[] = [];
  for (const [name, value] of Object.entries(node)) {
    if (name === 'type') continue;
    if (Array.isArray(value)) for (const item of value) isNode(item) && children.push(item);
    else if (isNode(value)) children.push(value);
  }
  return children;
}

/** Returns the names that a parameter or a declared pattern binds. */
export function boundNames(pattern: AnyNode | null): string[] {
  if (pattern === null) return [];
  switch (pattern.type) {
    case 'Identifier':
      return [pattern.name];
    case 'AssignmentPattern':
      return boundNames(pattern.left);
    case 'RestElement':
      return boundNames(pattern.argument);
    case 'ObjectPattern':
      return pattern.properties.flatMap((property) =>
        boundNames(property.type === 'RestElement' ? property.argument : property.value),
      );
    case 'ArrayPattern':
      return pattern.elements.flatMap(boundNames);
    default:
      return [];
  }
}

/**
 * Returns the key under which a function is known: `f` for a name, `.m` for a public property, `#m` for a private
 * one, undefined for a computed one. Private keys belong to their file.
 */
export function keyOf(node: AnyNode, computed: boolean, file: string): string | undefined {
  if (node.type === 'PrivateIdentifier') return `${file}#${node.name}`;
  if (computed || node.type !== 'Identifier') return undefined;
  return `.${node.name}`;
}

/** Returns the property names that an object pattern takes. */
export const patternKeys = (pattern: AnyNode): string[] =>
  pattern.properties.flatMap(({ type, key, computed }) =>
    type === 'Property' && !computed && key.type === 'Identifier' ? [key.name] : [],
  );
