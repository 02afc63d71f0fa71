// How the pages look: pictures in light and dark, on a desk and on a phone, and what can be measured of them.

import assert from 'node:assert/strict';

import { LOOKS, SCREENSHOTS, api, run, signIn, test } from './browser.mjs';

/** Nothing is wider than the screen, and what can be touched is large enough. */
async function measure(page) {
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(wide <= 0, `${wide} pixels wider than the screen`);
  const small = await page.evaluate(() =>
    [...document.querySelectorAll('button, select, .button')]
      .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 24)
      .map((one) => one.textContent),
  );
  assert.deepEqual(small, [], 'too small to touch');
}

/** The contrast of an element's text with what is behind it, as WCAG counts it. */
const contrast = (page, selector) => page.locator(selector).first().evaluate((one) => {
  const parts = (color) => color.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let behind = one;
  while (behind.parentElement && parts(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const [a, b] = [getComputedStyle(one).color, getComputedStyle(behind).backgroundColor].map((color) => light(parts(color)));
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
});

for (const look of LOOKS) {
  await test(`it looks well: ${look.name}`, async (open) => {
    const page = await open(look);
    const picture = (name) => page.screenshot({ path: `${SCREENSHOTS}/${name}-${look.name}.png` });
    await picture('sign-in');
    await measure(page);
    await signIn(page);
    const prompt = '[[think The file has to be made first, then read back.]][[bash printf "%s\\n" "# Plan" "" "1. Look around" "2. Write" > plan.md; cat plan.md]] Write a plan for the week into plan.md and tell me what is in it (' + look.name + ').';
    await run(page, prompt);
    await page.locator('#transcript .ended').waitFor();
    await page.locator('#transcript .tool summary').click();
    await picture('conversation');
    await measure(page);
    for (const place of ['.entry .who', '#session', '.primary', '#transcript .ended .state', '.entry.tool code']) {
      const found = await contrast(page, place).catch(() => 21);
      assert.ok(found >= 4.5, `${place}: ${found}`);
    }
    const phone = look.viewport.width < 600;
    for (const pane of phone ? ['runs', 'files'] : []) {
      await page.locator(`[data-tab=${pane}]`).click();
      await picture(pane);
      await measure(page);
    }
    await page.locator('#files .name', { hasText: 'plan.md' }).click();
    await page.locator('#editor[open]').waitFor();
    await picture('editor');
    await page.locator('#editor-close').click();
    await page.getByRole('button', { name: 'New directory' }).click();
    await picture('question');
    await page.locator('#question-no').click();
  });

  await test(`the description looks well: ${look.name}`, async (open) => {
    const page = await open(look, '/docs');
    await page.locator('.operation').first().waitFor();
    const { paths } = await (await api('GET', 'openapi.json')).json();
    const count = Object.values(paths).flatMap((methods) => Object.keys(methods)).length;
    assert.equal(await page.locator('.operation').count(), count, 'every operation of the document');
    await page.locator('#post-runs > summary').click();
    await page.locator('#post-runs').scrollIntoViewIfNeeded();
    await page.screenshot({ path: `${SCREENSHOTS}/docs-${look.name}.png` });
    await measure(page);
    await page.locator('#filter').fill('archive');
    assert.equal(await page.locator('.operation:visible').count(), 1);
  });
}
