/**
 * `npm run docs`: writes docs/reference.md.
 */
import { writeFileSync } from 'node:fs';
import { referenceText } from './reference.ts';

writeFileSync(new URL('../../docs/reference.md', import.meta.url), referenceText());
