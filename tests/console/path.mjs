// What people do with the console, from signing in to signing out.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

import { GATEWAY, TOKENS, api, inside, run, signIn, test, until } from './browser.mjs';

const status = (page) => page.locator('#status');
const transcript = (page) => page.locator('#transcript');
const ended = (page) => transcript(page).locator('.ended .state').last();

async function answer(page, text) {
  const dialog = page.locator('#question');
  await dialog.waitFor();
  if (text !== undefined) await dialog.locator('input').fill(text);
  await dialog.locator('#question-yes').click();
  await dialog.waitFor({ state: 'hidden' });
}

const file = (page, name) => page.locator('#files').getByRole('button', { name });

await test('a wrong token is refused and nothing of it is kept', async (open) => {
  const page = await open();
  await page.getByLabel('Token').fill('no.such.token');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.locator('#sign-in-problem').filter({ hasText: /not accepted/ }).waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length + localStorage.length + document.cookie.length), 0);
});

await test('the token is in this tab alone and gone after signing out', async (open) => {
  const page = await open();
  await signIn(page);
  const kept = await page.evaluate(() => ({ ...sessionStorage }));
  assert.deepEqual(kept, { 'pi-gateway-token': TOKENS.anna });
  assert.equal(await page.evaluate(() => localStorage.length + document.cookie.length), 0);
  assert.ok(!page.url().includes('ey'), page.url());
  await page.locator('#user').filter({ hasText: 'anna' }).waitFor();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByLabel('Token').waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  await page.reload();
  await page.getByLabel('Token').waitFor();
});

await test('a prompt is answered live, with its tools, and is in the list', async (open) => {
  const page = await open();
  await signIn(page);
  await run(page, '[[think It is simple.]][[bash echo made > made.txt; echo seen]] Make a file.');
  await page.getByRole('button', { name: 'Cancel the run' }).waitFor();
  await ended(page).filter({ hasText: 'succeeded' }).waitFor();
  assert.match(await transcript(page).locator('.tool pre').textContent(), /seen/);
  assert.match(await transcript(page).locator('.agent .text').last().textContent(), /seen/);
  await page.locator('#runs button[aria-current=true] .run-title').filter({ hasText: 'Make a file.' }).waitFor();
  await file(page, /made\.txt/).waitFor();
  await page.locator('#session').filter({ hasText: /messages/ }).waitFor();
});

await test('after a reload the run goes on where it was, by Last-Event-ID', async (open) => {
  const page = await open();
  await signIn(page);
  await run(page, '[[slow 60 100]] Write slowly.');
  const text = transcript(page).locator('.agent .text').last();
  await text.filter({ hasText: /word\S* .*word/s }).or(text.filter({ hasText: /\S+ \S+ \S+ \S+/ })).first().waitFor();
  const before = await text.textContent();
  const resumed = page.waitForRequest((request) => request.url().endsWith('/events') && request.headers()['last-event-id']);
  await page.reload();
  const id = (await resumed).headers()['last-event-id'];
  assert.match(id, /^[1-9]\d*-\d+$/);
  await page.getByRole('button', { name: 'Cancel the run' }).waitFor();
  await ended(page).filter({ hasText: 'succeeded' }).waitFor({ timeout: 60_000 });
  const after = await transcript(page).locator('.agent .text').last().textContent();
  assert.ok(after.startsWith(before.trimEnd()), `${before}\n${after}`);
  const run_id = await page.locator('#runs button[aria-current=true]').getAttribute('data-run');
  const told = await (await api('GET', `runs/${run_id}`)).json();
  assert.equal(after, told.output_text, 'nothing is lost and nothing is there twice');
});

await test('a stream that breaks is taken up where it was', async (open) => {
  const page = await open();
  await signIn(page);
  await run(page, '[[slow 60 100]] Write slowly again.');
  await transcript(page).locator('.agent .text').last().filter({ hasText: /\S+ \S+ \S+/ }).waitFor();
  const resumed = page.waitForRequest((request) => request.url().endsWith('/events') && request.headers()['last-event-id'] !== undefined);
  inside('systemctl', 'restart', 'pi-gateway');
  await resumed;
  await ended(page).filter({ hasText: 'succeeded' }).waitFor({ timeout: 60_000 });
  const run_id = await page.locator('#runs button[aria-current=true]').getAttribute('data-run');
  const told = await (await api('GET', `runs/${run_id}`)).json();
  assert.equal(await transcript(page).locator('.agent .text').last().textContent(), told.output_text);
});

await test('a message reaches the run, writing waits, and a cancel ends it', async (open) => {
  const page = await open();
  await signIn(page);
  await run(page, '[[bash sleep 2; echo slept]] Sleep.');
  await status(page).filter({ hasText: 'The agent works' }).waitFor();
  assert.ok(await page.getByRole('button', { name: 'New file' }).isDisabled());
  await page.getByLabel('Message to the run').fill('[[say Noted indeed.]] Mind the gap.');
  await page.getByRole('button', { name: 'Send' }).click();
  await transcript(page).locator('.entry.user', { hasText: 'Mind the gap.' }).waitFor();
  await transcript(page).locator('.agent', { hasText: 'Noted indeed.' }).waitFor();
  await ended(page).filter({ hasText: 'succeeded' }).waitFor();
  await run(page, '[[slow 600 100]] Never mind.');
  await transcript(page).locator('.agent .text').last().filter({ hasText: /\S+ \S+/ }).waitFor();
  await page.getByRole('button', { name: 'Cancel the run' }).click();
  await ended(page).filter({ hasText: 'cancelled' }).waitFor();
  assert.ok(await page.getByRole('button', { name: 'New file' }).isEnabled());
  assert.ok(await page.getByRole('button', { name: 'Cancel the run' }).isHidden());
});

await test('files are made, edited, renamed, uploaded, taken away and deleted', async (open) => {
  const page = await open();
  await signIn(page);
  await page.getByRole('button', { name: 'New directory' }).click();
  await answer(page, 'notes');
  await file(page, /notes\//).click();
  await page.getByRole('button', { name: 'New file' }).click();
  await answer(page, 'plan with spaces & 100 % ü.txt');
  const editor = page.locator('#editor');
  await editor.locator('textarea').fill('first line\nsecond line\n');
  await editor.getByRole('button', { name: 'Save' }).click();
  await editor.locator('#editor-note').filter({ hasText: 'Saved' }).waitFor();
  const path = encodeURIComponent('notes/plan with spaces & 100 % ü.txt');
  assert.equal(await (await api('GET', `workspace/files/content?path=${path}`)).text(), 'first line\nsecond line\n');
  // Somebody else writes meanwhile: nothing of his is lost.
  await api('PUT', `workspace/files/content?path=${path}`, 'theirs');
  await editor.locator('textarea').fill('mine');
  await editor.getByRole('button', { name: 'Save' }).click();
  await editor.locator('#editor-problem').filter({ hasText: 'has changed since' }).waitFor();
  assert.equal(await (await api('GET', `workspace/files/content?path=${path}`)).text(), 'theirs');
  await editor.getByRole('button', { name: 'Close' }).click();
  await answer(page);
  await file(page, /plan with/).click();
  await until('theirs is shown', async () => (await editor.locator('textarea').inputValue()) === 'theirs');
  await editor.getByRole('button', { name: 'Rename' }).click();
  await answer(page, 'notes/plan.txt');
  const download = page.waitForEvent('download');
  await editor.getByRole('button', { name: 'Download' }).click();
  assert.equal(readFileSync(await (await download).path(), 'utf8'), 'theirs');
  await editor.getByRole('button', { name: 'Close' }).click();
  await file(page, /^plan\.txt/).waitFor();
  const upload = (name, text) => ({ name, mimeType: 'application/octet-stream', buffer: Buffer.from(text) });
  await page.locator('#upload').setInputFiles([upload('one.bin', '\0\u0001binary'), upload('two.txt', 'two')]);
  await file(page, /two\.txt/).waitFor();
  await page.locator('#upload').setInputFiles([upload('two.txt', 'two, again')]);
  await answer(page);
  await file(page, /two\.txt\s*10 B/).waitFor();
  await file(page, /one\.bin/).click();
  await editor.locator('#editor-note').filter({ hasText: 'no text' }).waitFor();
  assert.ok(await editor.locator('textarea').isHidden());
  await editor.getByRole('button', { name: 'Delete' }).click();
  await answer(page);
  await file(page, /one\.bin/).waitFor({ state: 'detached' });
  await page.locator('#crumbs').getByRole('button', { name: 'workspace' }).click();
  await file(page, /made\.txt/).waitFor();
});

await test('the archive is the workspace', async (open) => {
  const page = await open();
  await signIn(page);
  await page.locator('#format').selectOption('zip');
  const download = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Download all' }).click();
  const done = await download;
  assert.equal(done.suggestedFilename(), 'workspace.zip');
  const bytes = readFileSync(await done.path());
  assert.equal(bytes.subarray(0, 2).toString(), 'PK');
  assert.ok(bytes.includes('notes/plan.txt'));
});

await test('a sync without a remote says what is missing', async (open) => {
  const page = await open();
  await signIn(page);
  await page.getByRole('button', { name: 'Sync' }).click();
  await page.locator('#files-problem').filter({ hasText: 'WORKSPACE_REMOTE_MODE' }).waitFor();
});

await test('a new session begins without the old one', async (open) => {
  const page = await open();
  await signIn(page);
  await page.locator('#session').filter({ hasText: /messages/ }).waitFor();
  await page.getByRole('button', { name: 'New session' }).click();
  await answer(page);
  await page.locator('#session').filter({ hasText: 'No conversation yet' }).waitFor();
});

await test('a user sees nothing of another', async (open) => {
  const page = await open();
  await signIn(page, 'bert');
  await page.locator('#files-note').filter({ hasText: 'Nothing is here yet' }).waitFor();
  assert.equal(await page.locator('#runs li').count(), 0);
});

await test('a token that ends is told and the page forgets', async (open) => {
  const page = await open();
  TOKENS.carl = inside('pi-gateway', 'token', '--user', 'carl', '--ttl', '20s').trim();
  await signIn(page, 'carl');
  await page.locator('#files-note').filter({ hasText: 'Nothing is here yet' }).waitFor();
  // The gateway bears a token for 30 s after its end.
  await until('the token has ended', async () => {
    if (await page.locator('#sign-in').isVisible()) return true;
    await page.getByRole('button', { name: 'Refresh' }).click();
    return false;
  }, 120);
  await page.locator('#sign-in-problem').filter({ hasText: 'signed out' }).waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  assert.equal(await page.locator('#files li').count(), 0);
});

await test('everything can be done with the keyboard, and everything has a name', async (open) => {
  const page = await open();
  await signIn(page);
  await page.getByLabel('Prompt', { exact: true }).focus();
  await page.keyboard.type('[[say By keys.]]');
  await page.keyboard.press('Control+Enter');
  await transcript(page).locator('.agent', { hasText: 'By keys.' }).waitFor();
  await ended(page).filter({ hasText: 'succeeded' }).waitFor();
  await file(page, /made\.txt/).focus();
  await page.keyboard.press('Enter');
  await page.locator('#editor[open]').waitFor();
  await page.keyboard.press('Escape');
  await page.locator('#editor[open]').waitFor({ state: 'detached' });
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll('button, input, select, textarea')]
      .filter((one) => one.checkVisibility() && !one.textContent.trim() && !one.labels?.length && !one.ariaLabel)
      .map((one) => one.outerHTML),
  );
  assert.deepEqual(nameless, []);
});

await test('the page is not there unless the operator wants it, the description is', async () => {
  assert.equal((await fetch(`${GATEWAY}/console`)).status, 200);
  inside('sh', '-c', 'sed -i s/^CONSOLE_ENABLED=true/CONSOLE_ENABLED=false/ /etc/pi-gateway/gateway.env; systemctl restart pi-gateway');
  try {
    for (const path of ['console', 'console/app.js']) assert.equal((await fetch(`${GATEWAY}/${path}`)).status, 404, path);
    assert.equal((await fetch(`${GATEWAY}/docs`)).status, 200);
  } finally {
    inside('sh', '-c', 'sed -i s/^CONSOLE_ENABLED=false/CONSOLE_ENABLED=true/ /etc/pi-gateway/gateway.env; systemctl restart pi-gateway');
  }
  await until('the gateway is back', async () => (await fetch(`${GATEWAY}/health/ready`).catch(() => null))?.ok);
});
