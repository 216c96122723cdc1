/**
 * Rewriting of a module for the model: a function that steps becomes a generator function, and each access to shared
 * memory in it becomes a `yield` of the access.
 *
 * | source | model |
 * |---|---|
 * | `ld(words, 3, 'x')` | `(yield ld(words, 3, 'x'))`: the scheduler performs it and passes the value back |
 * | `copyIn(…)` | `(yield* copyIn(…))`: a copy is several steps |
 * | `this.#drain()` | `((t$ = this.#drain()) instanceof $.Steps ? yield* t$ : t$)` |
 * | `pages.filter((p) => isFree(p))` | `(yield* $.each(pages, 'filter', (p) => …))` |
 * | `await x` | `(yield* $.settle(x))` |
 * | any of them in a constructor, or at the top of a module | `$.now(…)`: performed at once, not scheduled |
 */
import MagicString from 'magic-string';
import {
  type Analysis,
  calleeKey,
  isHigherOrder,
  isParam,
  isPlain,
  type ModuleSource,
  operationOf,
  type Unit,
} from './analyse.ts';
import { type AnyNode, childrenOf, isFunction, keyOf, patternKeys } from './syntax.ts';

/** Operations that are a generator of several steps. */
const COPIES = new Set(['copy', 'copyIn', 'copyOut']);

/** Array methods that call a function and are not emulated. */
const REFUSED = new Set(['sort', 'toSorted', 'replace', 'replaceAll']);

class Rewriter {
  readonly #module: ModuleSource;
  readonly #analysis: Analysis;
  readonly #text: MagicString;

  constructor(module: ModuleSource, analysis: Analysis) {
    this.#module = module;
    this.#analysis = analysis;
    this.#text = new MagicString(module.code);
  }

  result(runtime: string): string {
    this.#visit(this.#module.ast, undefined, undefined);
    this.#text.prepend(
      `import * as $ from ${JSON.stringify(runtime)}; const { SharedArrayBuffer, Promise } = $;`,
    );
    const map = this.#text.generateMap({ source: this.#module.url, hires: 'boundary' });
    return `${this.#text.toString()}\n//# sourceMappingURL=${map.toUrl()}`;
  }

  /** Rewrites a node. `unit` is the generator function around it; undefined where accesses are performed at once. */
  #visit(node: AnyNode, unit: Unit | undefined, parent: AnyNode | undefined): void {
    if (isFunction(node)) {
      this.#function(node);
      return;
    }
    if (node.type === 'PropertyDefinition' && node.value) {
      this.#visit(node.value, undefined, node);
      return;
    }
    for (const child of childrenOf(node)) this.#visit(child, unit, node);
    switch (node.type) {
      case 'CallExpression':
        this.#call(node, unit, parent);
        break;
      case 'MemberExpression':
        this.#read(node, unit, parent);
        break;
      case 'VariableDeclarator':
        this.#destructured(node, unit);
        break;
      case 'AwaitExpression':
        this.#text.remove(node.start, node.start + 'await'.length);
        this.#wrap(node, '(yield* $.settle(', '))');
        break;
      case 'ForOfStatement':
        this.#forOf(node, unit);
        break;
    }
  }

  #wrap(node: AnyNode, before: string, after: string): void {
    // Children are rewritten first, so the text around a node goes outside of theirs.
    this.#text.prependRight(node.start, before);
    this.#text.appendLeft(node.end, after);
  }

  #function(node: AnyNode): void {
    const unit = this.#analysis.units.get(node) as Unit;
    const steps = unit.stepping && unit.kind !== 'constructor' && unit.kind !== 'set';
    for (const param of node.params) this.#visit(param, undefined, node);
    this.#visit(node.body, steps ? unit : undefined, node);
    if (!steps) return;
    if (node.generator) {
      this.#text.appendLeft(node.body.start + 1, 'let t$;');
      return;
    }
    if (node.async) this.#removeAsync(unit);
    const isBlock = node.body.type === 'BlockStatement';
    const [open, close] = node.async
      ? ['return $.settled(yield* (function*() {let t$;', '}).call(this));']
      : ['', ''];
    if (unit.kind === 'arrow' || unit.kind === 'get') {
      const head = `(function*() {${open || 'let t$;'}`;
      if (isBlock) {
        this.#text.appendLeft(node.body.start + 1, `return ${head}`);
        this.#text.prependRight(node.body.end - 1, `${close}}).call(this);`);
      } else {
        this.#text.prependRight(this.#bodyStart(node), `${head}return (`);
        this.#text.appendLeft(node.end, `);${close}}).call(this)`);
      }
      return;
    }
    this.#text.appendLeft(node.body.start + 1, open || 'let t$;');
    if (close) this.#text.prependRight(node.body.end - 1, close);
    this.#star(unit);
  }

  /** Returns the start of an arrow's expression, with the parentheses around it. */
  #bodyStart(node: AnyNode): number {
    return this.#module.code.indexOf('=>', node.params.at(-1)?.end ?? node.start) + 2;
  }

  #star({ node, kind, start }: Unit): void {
    if (kind !== 'method') {
      this.#text.appendLeft(node.start + (node.async ? 'async '.length : 0) + 'function'.length, '*');
      return;
    }
    const isStatic = /^static\s+/.exec(this.#module.code.slice(start, node.start))?.[0].length ?? 0;
    this.#text.appendLeft(start + isStatic, '*');
  }

  #removeAsync({ node, kind, start }: Unit): void {
    const from = kind === 'method' ? start : node.start;
    const head = this.#module.code.slice(from, node.body.start);
    const at = /\basync\s+|\basync(?=\()/.exec(head);
    if (at) this.#text.remove(from + at.index, from + at.index + at[0].length);
  }

  #call(node: AnyNode, unit: Unit | undefined, parent: AnyNode | undefined): void {
    const operation = operationOf(node.callee, this.#module);
    if (operation !== undefined) {
      if (isPlain(operation)) return;
      if (!unit) this.#wrap(node, '$.now(', ')');
      else this.#wrap(node, COPIES.has(operation) ? '(yield* ' : '(yield ', ')');
      return;
    }
    const callbacks = node.arguments.filter((argument) => this.#analysis.units.get(argument)?.stepping);
    const name = node.callee.type === 'MemberExpression' ? node.callee.property.name : undefined;
    if (callbacks.length > 0 && isHigherOrder(node)) {
      this.#each(node, unit);
      return;
    }
    if (callbacks.length > 0 && name !== undefined && REFUSED.has(name))
      throw new SyntaxError(
        `${this.#module.url}: .${name}() with shared accesses is not supported in the model`,
      );
    const key = calleeKey(node.callee, this.#module);
    if (key === undefined) {
      if (node.callee.type !== 'Super') this.#checked(node, unit, parent);
      return;
    }
    if (this.#analysis.generators.has(key)) {
      if (parent?.type !== 'ForOfStatement') this.#wrap(node, unit ? '(yield* $.all(' : '$.now($.all(', '))');
      return;
    }
    const passedIn = node.callee.type === 'Identifier' && isParam(node.callee.name, unit);
    const field = key.includes('#') && !this.#analysis.keys.has(key);
    if (this.#analysis.calls.has(key) || passedIn || field) this.#checked(node, unit, parent);
  }

  /** Runs the steps of a value, if it is a generator of steps. */
  #checked(node: AnyNode, unit: Unit | undefined, parent: AnyNode | undefined): void {
    const chain = parent?.type === 'ChainExpression' ? parent : node;
    if (chain === node && hasOptional(node))
      throw new SyntaxError(
        `${this.#module.url}: shared accesses in the middle of an optional chain are not supported in the model: ` +
          this.#module.code.slice(node.start, node.end),
      );
    if (unit) this.#wrap(chain, '((t$ = ', ') instanceof $.Steps ? yield* t$ : t$)');
    else this.#wrap(chain, '$.now(', ')');
  }

  /** `a.map(f)` becomes `$.each(a, 'map', f)`. */
  #each(node: AnyNode, unit: Unit | undefined): void {
    const first = node.arguments[0] as AnyNode;
    const { name } = node.callee.property;
    const from = node.callee.object.end;
    const dot = this.#module.code.slice(from, first.start).search(new RegExp(`\\??\\.\\s*${name}\\s*\\(`));
    this.#text.overwrite(from + dot, first.start, `, '${name}', `);
    this.#wrap(node, unit ? '(yield* $.each(' : '$.now($.each(', ')');
  }

  #read(node: AnyNode, unit: Unit | undefined, parent: AnyNode | undefined): void {
    const key = keyOf(node.property, node.computed, this.#module.url);
    if (key === undefined || !this.#analysis.getters.has(key)) return;
    if (parent?.type === 'CallExpression' && parent.callee === node) return;
    if (parent?.type === 'AssignmentExpression' && parent.left === node) return;
    if (
      parent?.type === 'UpdateExpression' ||
      (parent?.type === 'UnaryExpression' && parent.operator === 'delete')
    )
      return;
    this.#checked(node, unit, parent);
  }

  /** `const { sequence } = doorbell;` reads getters that step. */
  #destructured({ id, init }: AnyNode, unit: Unit | undefined): void {
    if (id?.type !== 'ObjectPattern' || init === null) return;
    const keys = patternKeys(id);
    if (!keys.some((key) => this.#analysis.getters.has(`.${key}`))) return;
    const text = `$.properties(${JSON.stringify(keys)}, `;
    this.#wrap(init, unit ? `(yield* ${text}` : `$.now(${text}`, '))');
  }

  /** A loop over a generator of the sources takes its values, and passes its steps on. */
  #forOf(node: AnyNode, unit: Unit | undefined): void {
    const { left, right, body } = node;
    if (right.type !== 'CallExpression') return;
    const key = calleeKey(right.callee, this.#module);
    if (key === undefined || !this.#analysis.generators.has(key)) return;
    if (!unit) {
      this.#wrap(right, '$.now($.all(', '))');
      return;
    }
    const [from, next] = [`i$${node.start}`, `n$${node.start}`];
    const declared = this.#module.code.slice(left.start, left.end);
    this.#text.overwrite(node.start, right.start, `for (let ${from} = $.iterator(`);
    this.#text.overwrite(
      right.end,
      body.start,
      `), ${next}; !(${next} = yield* $.next(${from})).done; ) { ${declared} = ${next}.value; `,
    );
    this.#text.appendLeft(body.end, ' }');
  }
}

/** Returns whether a link of the chain before a node's last one is optional. */
function hasOptional(node: AnyNode): boolean {
  if (node.optional) return true;
  if (node.type === 'CallExpression') return hasOptional(node.callee);
  return node.type === 'MemberExpression' && hasOptional(node.object);
}

/** Returns the module's text for the model. `runtime` is the URL of the module with the helpers. */
export const rewrite = (module: ModuleSource, analysis: Analysis, runtime: string): string =>
  new Rewriter(module, analysis).result(runtime);
