/**
 * The sorted map of the package `sorted-btree`, with keys in ascending order. The package is CommonJS: under Node its
 * class is the default export's `default`.
 */
import BTreeModule from 'sorted-btree';

export const BTree = BTreeModule.default;
