/**
 * Analysis of a module graph: the functions that can reach an access to shared memory, by the names of their calls.
 *
 * A function *steps* if it accesses shared memory, awaits, calls a function that was passed to it, or calls a name of
 * which some function of the graph steps. Names are compared, not types, so the answer errs only on the side of
 * "steps": at run time a call that returns no generator costs one comparison.
 */
import { type AnyNode, boundNames, childrenOf, isFunction, keyOf, patternKeys } from './syntax.ts';

/** Methods of arrays and maps that call a function. Their calls with a stepping function are emulated. */
const HIGHER_ORDER = new Set(
  'map filter forEach find findIndex findLast some every reduce flatMap from'.split(' '),
);

/** Functions of `#host` and methods of promises that may be steps. */
const BUILT_IN_STEPS = ['yieldTurn', 'yieldToOthers', 'sleep', 'afterCallback', '.then', '.finally'];

/** A module without types. */
export interface ModuleSource {
  readonly url: string;
  readonly code: string;
  readonly ast: AnyNode;
  /** Local names of the operations of shared memory, and of the namespaces that contain them. */
  readonly operations: ReadonlyMap<string, string>;
  readonly namespaces: ReadonlySet<string>;
  /** Names by which other modules know an imported function, by local name. */
  readonly aliases: ReadonlyMap<string, string>;
}

type UnitKind = 'function' | 'arrow' | 'method' | 'get' | 'set' | 'constructor';

/** A function of a module. */
export interface Unit {
  readonly node: AnyNode;
  readonly kind: UnitKind;
  /** Start of the method or property that holds the function; the function's own start otherwise. */
  readonly start: number;
  readonly key: string | undefined;
  /** Names of its parameters and variables: a call of one calls a function from elsewhere. */
  readonly params: Set<string>;
  readonly parent: Unit | undefined;
  readonly calls: Set<string>;
  readonly reads: Set<string>;
  /** Function literals that are passed to a higher-order method. */
  readonly callbacks: Unit[];
  stepping: boolean;
}

/** Result of the analysis of a graph. */
export interface Analysis {
  readonly units: ReadonlyMap<AnyNode, Unit>;
  /** Keys of functions that step, of getters that step, and of the sources' own generators. */
  readonly calls: ReadonlySet<string>;
  readonly getters: ReadonlySet<string>;
  readonly generators: ReadonlySet<string>;
  /** Keys of all functions. */
  readonly keys: ReadonlySet<string | undefined>;
}

/** Names of the operations' modules that are no step of a thread. */
const PLAIN = new Set(['wordsOf', 'bytesOf', 'peek', 'poke', 'explore', 'ensure', 'ViolationError']);
export const isPlain = (operation: string): boolean => PLAIN.has(operation);

/** Returns the operation of shared memory that a callee names, or undefined. */
export function operationOf(callee: AnyNode, module: ModuleSource): string | undefined {
  if (callee.type === 'Identifier') return module.operations.get(callee.name);
  if (callee.type !== 'MemberExpression' || callee.object.type !== 'Identifier' || callee.computed)
    return undefined;
  return module.namespaces.has(callee.object.name) ? callee.property.name : undefined;
}

/** Returns the key of a call's callee, or undefined for a computed one. */
export function calleeKey(callee: AnyNode, module: ModuleSource): string | undefined {
  if (callee.type === 'Identifier') return module.aliases.get(callee.name) ?? callee.name;
  if (callee.type === 'MemberExpression') return keyOf(callee.property, callee.computed, module.url);
  return undefined;
}

/** Returns whether a call passes function literals to a higher-order method. */
export const isHigherOrder = ({ callee, arguments: passed }: AnyNode): boolean =>
  callee.type === 'MemberExpression' &&
  !callee.computed &&
  HIGHER_ORDER.has(callee.property.name) &&
  passed.some(isFunction);

/** Names of methods that the language has: a property of such a name is not taken for a function that was passed in. */
const BUILT_IN = new Set(
  [Array, Map, Set, String, Number, Object, Promise, Function, DataView, Uint8Array, Buffer].flatMap(
    (type) => [...Object.getOwnPropertyNames(type), ...Object.getOwnPropertyNames(type.prototype)],
  ),
);

/** Collects the functions of one module. */
class Collector {
  readonly units = new Map<AnyNode, Unit>();
  /** Keys of properties to which a variable is assigned, which may be a function. */
  readonly assigned = new Set<string>();
  readonly #module: ModuleSource;

  constructor(module: ModuleSource) {
    this.#module = module;
    this.#visit(module.ast, undefined);
    this.#resolveFields();
  }

  #visit(node: AnyNode, unit: Unit | undefined): void {
    switch (node.type) {
      case 'FunctionDeclaration':
        this.#function(node, 'function', node.id?.name, node.start, unit);
        return;
      case 'FunctionExpression':
      case 'ArrowFunctionExpression':
        this.#function(node, kindOf(node), undefined, node.start, unit);
        return;
      case 'VariableDeclarator':
        if (node.init && isFunction(node.init)) {
          this.#function(node.init, kindOf(node.init), node.id?.name, node.init.start, unit);
          return;
        }
        for (const name of boundNames(node.id)) unit?.params.add(name);
        break;
      case 'MethodDefinition':
      case 'PropertyDefinition':
      case 'Property':
        this.#property(node, unit);
        return;
      case 'CallExpression':
        this.#call(node, unit);
        return;
      case 'MemberExpression': {
        const key = keyOf(node.property, node.computed, this.#module.url);
        if (key !== undefined) unit?.reads.add(key);
        break;
      }
      case 'AssignmentExpression':
        if (node.left.type === 'MemberExpression')
          this.#assign(node.left.property, node.left.computed, node.right);
        break;
      case 'ObjectPattern':
        for (const key of patternKeys(node)) unit?.reads.add(`.${key}`);
        break;
      case 'AwaitExpression':
        if (unit) unit.stepping = true;
        break;
      case 'ForOfStatement':
        if (node.await) throw new SyntaxError(`${this.#module.url}: for await is not supported in the model`);
        break;
    }
    for (const child of childrenOf(node)) this.#visit(child, unit);
  }

  #assign(name: AnyNode, computed: boolean, value: AnyNode): void {
    const key = keyOf(name, computed, this.#module.url);
    if (value.type === 'Identifier' && key !== undefined && !BUILT_IN.has(key.slice(1)))
      this.assigned.add(key);
  }

  #property(node: AnyNode, unit: Unit | undefined): void {
    if (node.computed) this.#visit(node.key, unit);
    const key = keyOf(node.key, node.computed, this.#module.url);
    const value = node.value as AnyNode | null;
    if (value === null) return;
    this.#assign(node.key, node.computed, value);
    if (!isFunction(value)) {
      this.#visit(value, node.type === 'Property' ? unit : undefined);
      return;
    }
    const isMethod =
      node.type === 'MethodDefinition' || node.method || node.kind === 'get' || node.kind === 'set';
    const kind =
      isMethod && node.kind !== 'init' ? (node.kind as UnitKind) : isMethod ? 'method' : kindOf(value);
    this.#function(value, kind, key, isMethod ? node.start : value.start, unit);
  }

  #function(
    node: AnyNode,
    kind: UnitKind,
    key: string | undefined,
    start: number,
    parent: Unit | undefined,
  ): void {
    const unit: Unit = {
      node,
      kind,
      start,
      key,
      parent,
      params: new Set(node.params.flatMap(boundNames)),
      calls: new Set(),
      reads: new Set(),
      callbacks: [],
      stepping: node.async,
    };
    this.units.set(node, unit);
    for (const param of node.params) this.#visit(param, undefined);
    this.#visit(node.body, unit);
  }

  #call(node: AnyNode, unit: Unit | undefined): void {
    const operation = operationOf(node.callee, this.#module);
    if (operation !== undefined) {
      if (unit && !isPlain(operation)) unit.stepping = true;
    } else {
      const key = calleeKey(node.callee, this.#module);
      if (key !== undefined) unit?.calls.add(key);
      // A function from an expression may be any.
      else if (unit && node.callee.type !== 'Super') unit.stepping = true;
      if (unit && node.callee.type === 'Identifier' && isParam(node.callee.name, unit)) unit.stepping = true;
    }
    if (node.callee.type === 'MemberExpression') {
      this.#visit(node.callee.object, unit);
      if (node.callee.computed) this.#visit(node.callee.property, unit);
    } else this.#visit(node.callee, unit);
    for (const argument of node.arguments) {
      this.#visit(argument, unit);
      const callback = this.units.get(argument);
      if (callback && isHigherOrder(node)) unit?.callbacks.push(callback);
    }
  }

  /** A call of a private field that is no method calls a function that was passed in. */
  #resolveFields(): void {
    const methods = new Set([...this.units.values()].map(({ key }) => key));
    for (const unit of this.units.values())
      for (const key of unit.calls) if (key.includes('#') && !methods.has(key)) unit.stepping = true;
  }
}

const kindOf = (node: AnyNode): UnitKind => (node.type === 'ArrowFunctionExpression' ? 'arrow' : 'function');

/** Returns whether a name is a parameter or a variable of the function or of one around it. */
export function isParam(name: string, unit: Unit | undefined): boolean {
  for (let at = unit; at; at = at.parent) if (at.params.has(name)) return true;
  return false;
}

/** Analyses the graph: marks the functions that step, until nothing changes. */
export function analyse(modules: readonly ModuleSource[]): Analysis {
  const units = new Map<AnyNode, Unit>();
  const [calls, getters, generators] = [new Set(BUILT_IN_STEPS), new Set<string>(), new Set<string>()];
  for (const module of modules) {
    const { units: found, assigned } = new Collector(module);
    for (const [node, unit] of found) units.set(node, unit);
    for (const key of assigned) calls.add(key);
  }
  for (const { node, key } of units.values()) if (node.generator && key !== undefined) generators.add(key);
  for (let changed = true; changed; ) {
    changed = false;
    for (const unit of units.values()) {
      const before = unit.stepping;
      unit.stepping ||=
        [...unit.calls].some((key) => calls.has(key) || generators.has(key)) ||
        [...unit.reads].some((key) => getters.has(key)) ||
        unit.callbacks.some(({ stepping }) => stepping);
      changed ||= unit.stepping !== before;
      if (!unit.stepping || unit.key === undefined || unit.node.generator) continue;
      if (unit.kind === 'constructor' || unit.kind === 'set') continue;
      const names = unit.kind === 'get' ? getters : calls;
      changed ||= !names.has(unit.key);
      names.add(unit.key);
    }
  }
  const keys = new Set([...units.values()].map(({ key }) => key));
  return { units, calls, getters, generators, keys };
}
