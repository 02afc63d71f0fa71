// Names and texts that would run as markup stay text. Each attack is shown to work where nothing stands in its way.

import assert from 'node:assert/strict';

import { GATEWAY, api, inside, run, signIn, test, until } from './browser.mjs';

/** Sets a mark when it runs. There is no slash in them, so that each can be the name of a file. */
const ATTACKS = [
  '<img src=x onerror="window.hit=1">',
  '<video src=x onerror="window.hit=1">',
  '<details open ontoggle="window.hit=1">x',
];

const hit = (page) => page.evaluate(() => window.hit);

/** Waits until whatever would run has had its turn: the failure of an image is told after a task of its own. */
const settle = (page) => page.evaluate(() => new Promise((done) => {
  const image = new Image();
  image.onerror = () => setTimeout(done, 50);
  image.src = 'console/no-such-image';
}));

await test('the attacks run where markup is made of them', async (open) => {
  for (const attack of ATTACKS) {
    const page = await open(undefined, '/health');
    await page.setContent('<p></p>');
    await page.evaluate((text) => (document.querySelector('p').innerHTML = text), attack);
    await page.waitForFunction(() => window.hit === 1, null, { timeout: 10_000 });
    page.problems.length = 0;
  }
});

await test('names of files, the model, tools and errors are text', async (open) => {
  for (const [index, attack] of ATTACKS.entries()) {
    const made = await api('PUT', `workspace/files/content?path=${encodeURIComponent(`${attack}${index}.txt`)}`, attack);
    assert.equal(made.status, 201);
  }
  const page = await open();
  await signIn(page);
  const say = ATTACKS.map((attack) => `[[say ${attack}]]`).join('');
  const print = ATTACKS.map((attack) => `echo '${attack}'`).join('; ');
  await run(page, `${say}[[think ${ATTACKS[0]}]][[bash ${print}; false]] ${ATTACKS[0]}`);
  await page.locator('#transcript .ended').waitFor();
  const shown = await page.locator('#transcript').textContent();
  for (const attack of ATTACKS) assert.ok(shown.includes(attack), `${attack} is shown as it is`);
  await page.locator('#runs .run-title', { hasText: ATTACKS[0] }).first().waitFor();
  for (const attack of ATTACKS) {
    const button = page.locator('#files .name', { hasText: attack }).first();
    await button.click();
    await page.locator('#editor-title', { hasText: attack }).waitFor();
    await until('its text is shown', async () => (await page.locator('#editor textarea').inputValue()) === attack);
    await page.locator('#editor-close').click();
  }
  // As the name of a directory, in the path above the list.
  await api('POST', 'workspace/files', JSON.stringify({ op: 'mkdir', path: ATTACKS[0] }), 'anna', { 'Content-Type': 'application/json' });
  await page.getByRole('button', { name: 'Refresh' }).click();
  await page.locator('#files .directory', { hasText: ATTACKS[0] }).click();
  await page.locator('#crumbs', { hasText: ATTACKS[0] }).waitFor();
  await settle(page);
  assert.equal(await hit(page), undefined);
  for (const name of ['img:not([src="pages/icon.svg"]):not(#editor-image)', 'video', '[onerror], [onload], [ontoggle]']) {
    assert.equal(await page.locator(name).count(), 0, name);
  }
});

await test('a name that is not UTF-8 can be opened', async (open) => {
  inside('sh', '-c', "printf odd >$(printf '/var/lib/pi-gateway/workspaces/anna/odd-\\377.txt')");
  inside('sh', '-c', 'chown $(stat -c %u /var/lib/pi-gateway/workspaces/anna) /var/lib/pi-gateway/workspaces/anna/odd-*');
  const page = await open();
  await signIn(page);
  await page.locator('#files .name', { hasText: 'odd-' }).click();
  await page.locator('#editor-title', { hasText: 'odd-\ufffd.txt' }).waitFor();
  await until('its text is shown', async () => (await page.locator('#editor textarea').inputValue()) === 'odd');
});

await test('even a mistake of the page could not run them', async (open) => {
  for (const path of ['/console', '/docs']) {
    const page = await open(undefined, path);
    const refused = await page.evaluate((attack) => {
      try {
        document.body.innerHTML = attack;
        return 'taken';
      } catch (error) {
        return error.name;
      }
    }, ATTACKS[0]);
    assert.equal(refused, 'TypeError', path);
    const inline = await page.evaluate(() => {
      const script = document.createElement('script');
      try {
        script.textContent = 'window.hit=1';
      } catch {
        return 'refused';
      }
      document.body.append(script);
      return window.hit === 1 ? 'ran' : 'did not run';
    });
    assert.notEqual(inline, 'ran', path);
    const elsewhere = await page.evaluate(() => fetch('http://127.0.0.2:8787/health').then(() => 'reached', () => 'refused'));
    assert.equal(elsewhere, 'refused', path);
    await settle(page);
    assert.equal(await hit(page), undefined);
    // The browser told of each attempt.
    assert.ok(page.problems.length > 0);
    page.problems.length = 0;
  }
});

await test('a file of the workspace can do nothing in the name of the gateway', async (open) => {
  const page_of = '<script>window.hit=1;document.title="hit"</script><img src=x onerror="window.hit=1;document.title=\'hit\'">';
  await api('PUT', 'workspace/files/content?path=evil.html', page_of);
  const page = await open();
  await signIn(page);
  await page.route('**/workspace/files/content?path=evil.html', (route) => route.continue({ headers: { ...route.request().headers(), authorization: `Bearer ${process.env.TOKEN}` } }));
  const response = await page.goto(`${GATEWAY}/workspace/files/content?path=evil.html`);
  assert.equal(response.headers()['content-type'], 'text/html; charset=utf-8', 'a browser takes it for a page');
  assert.equal(await response.text(), page_of);
  // In a page without scripts no handler of ours would be called either.
  await page.waitForLoadState('networkidle');
  // Its title would say so, even if nothing could be asked of a page without scripts.
  assert.notEqual(await page.title(), 'hit');
  assert.equal(await page.evaluate(() => window.hit).catch(() => undefined), undefined);
  page.problems.length = 0;
});
