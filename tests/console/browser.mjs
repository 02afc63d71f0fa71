// A Chromium, the gateway's pages in it, and small tests that run one after the other.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';

// Installed beside the build, not here: the sources stay as they are.
const { chromium } = createRequire(`${process.cwd()}/.build/console/`)('playwright-core');

export const GATEWAY = 'http://127.0.0.1:8787';
export const SCREENSHOTS = '.build/screenshots';
const { TOKEN, OTHER_TOKEN, TESTHOST } = process.env;
export const TOKENS = { anna: TOKEN, bert: OTHER_TOKEN };

/** The sizes and schemes that are looked at. */
export const LOOKS = [
  { name: 'light', colorScheme: 'light', viewport: { width: 1360, height: 860 } },
  { name: 'dark', colorScheme: 'dark', viewport: { width: 1360, height: 860 } },
  { name: 'phone', colorScheme: 'light', viewport: { width: 390, height: 780 }, hasTouch: true, isMobile: true },
  { name: 'phone-dark', colorScheme: 'dark', viewport: { width: 390, height: 780 }, hasTouch: true, isMobile: true },
];

const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu'] });

/** A page of its own, whose errors fail the test: what the console of the browser says, but for refusals that are meant. */
export async function open(look = LOOKS[0], path = '/console') {
  const context = await browser.newContext({ ...look, acceptDownloads: true, reducedMotion: 'reduce' });
  const page = await context.newPage();
  page.problems = [];
  page.on('pageerror', (error) => page.problems.push(String(error)));
  page.on('console', (message) => {
    const meant = message.text().startsWith('Failed to load resource');
    if (message.type() === 'error' && !meant) page.problems.push(message.text());
  });
  await page.goto(GATEWAY + path);
  return page;
}

export async function signIn(page, user = 'anna') {
  await page.getByLabel('Token').fill(TOKENS[user]);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.locator('#console').waitFor();
}

/** Starts a run with a prompt that no run has had, and waits until it is on the screen. */
export async function run(page, prompt) {
  await page.getByLabel('Prompt', { exact: true }).fill(prompt);
  await page.getByRole('button', { name: 'Run', exact: true }).click();
  await page.locator('#transcript .entry.user .text').first().filter({ hasText: prompt }).waitFor();
}

/** A request of the API, beside the page. */
export async function api(method, path, body, user = 'anna', headers = {}) {
  return fetch(`${GATEWAY}/${path}`, { method, body, headers: { Authorization: `Bearer ${TOKENS[user]}`, ...headers } });
}

/** Asks until the answer is something; fails when that takes longer than `seconds`. */
export async function until(what, ask, seconds = 30) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const found = await ask();
    if (found) return found;
    assert.ok(Date.now() < deadline, `it did not come to this in ${seconds} s: ${what}`);
    await new Promise((done) => setTimeout(done, 100));
  }
}

/** A command in the gateway's machine, as root. */
export function inside(...command) {
  return execFileSync('tests/testhost', ['exec', TESTHOST, ...command], { encoding: 'utf8' });
}

/** How long one test may take, in seconds: what the browser does not answer has no limit of its own. */
const LIMIT = 180;
const within = (seconds, work) => {
  let timer;
  const late = new Promise((_, fail) => { timer = setTimeout(() => fail(new Error(`no end in ${seconds} s`)), seconds * 1000); });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
};

let [passed, failed] = [0, 0];
const wanted = process.argv[2] || '';

/** Runs a test; its page is closed afterwards. A failure leaves a picture. */
export async function test(name, work) {
  if (!name.includes(wanted)) return;
  const pages = [];
  const track = async (...given) => {
    const page = await open(...given);
    pages.push(page);
    return page;
  };
  try {
    await within(LIMIT, work(track));
    for (const page of pages) assert.deepEqual(page.problems, [], 'what the browser complains of');
    passed += 1;
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}\n${error.stack}`);
    if (pages[0]) await pages[0].screenshot({ path: `${SCREENSHOTS}/failed.png` }).catch(() => {});
  } finally {
    for (const page of pages) await within(LIMIT, page.context().close()).catch(() => {});
  }
}

/** Ends the browser and says how it went. */
export async function end() {
  await within(LIMIT, browser.close()).catch(() => {});
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed === 0 && passed > 0 ? 0 : 1);
}
