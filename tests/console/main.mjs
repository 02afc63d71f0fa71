// The console's whole path, hostile content, and how it looks.

import { end } from './browser.mjs';

await import('./path.mjs');
await import('./hostile.mjs');
await import('./looks.mjs');
await end();
