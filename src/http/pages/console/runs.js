// Runs: the list, the one that is shown, starting, saying something to it, cancelling.

import { call, get, post } from './api.js';
import { ask, byId, element, say, time } from './dom.js';
import { follow } from './events.js';
import { Transcript } from './transcript.js';

const FINAL = ['succeeded', 'failed', 'cancelled', 'interrupted'];
const PAGE = 20;

let shown = null; // The run on the screen.
let active = null; // The id of the run that goes on.
let following = new AbortController();
let older = null;
let models = [];
let onActivity = () => {};

/** What of a run's life the header says. */
const WORDS = {
  starting: 'The sandbox is being started…',
  running: 'The agent works…',
  finalizing: 'The run is being completed…',
};

function setActive(id) {
  const changed = (active === null) !== (id === null);
  active = id;
  byId('cancel').hidden = id === null;
  byId('run-options').hidden = id !== null;
  byId('message-options').hidden = id === null;
  say('prompt-label', id === null ? 'Prompt' : 'Message to the run');
  say('send', id === null ? 'Run' : 'Send');
  if (id === null) say('status', '');
  if (changed) onActivity(id !== null);
}

function item(run) {
  const state = element('span', 'state', run.status);
  state.dataset.state = run.status;
  const title = run.metadata.title || (run.output_text || '').split('\n')[0] || 'A run';
  const button = element(
    'button',
    '',
    element('span', 'run-title', title),
    element('span', 'small dim', state, ` ${time(run.created_at)}`),
  );
  button.type = 'button';
  button.dataset.run = run.id;
  button.onclick = () => show(run.id);
  return element('li', '', button);
}

function mark() {
  for (const button of byId('runs').querySelectorAll('button')) {
    button.setAttribute('aria-current', String(button.dataset.run === shown));
  }
}

/** Lists the newest runs, or further ones. Gives the newest. */
async function list(cursor = null) {
  const page = await get(`runs?limit=${PAGE}${cursor ? `&cursor=${cursor}` : ''}`);
  if (!cursor) byId('runs').replaceChildren();
  byId('runs').append(...page.data.map(item));
  older = page.next;
  byId('more-runs').hidden = older === null;
  mark();
  return page.data[0] || null;
}

/** Says how the session stands. */
async function tellSession() {
  const [about, context] = await Promise.all([get('session'), get('context')]);
  const full = context.percent === null ? '' : `, context ${context.percent} % full`;
  const cost = context.cost_usd ? `, $${context.cost_usd.toFixed(4)}` : '';
  say('session', about.exists ? `${about.message_count} messages${full}${cost}` : 'No conversation yet.');
  return about.active_run;
}

/** Shows a run, and follows it while it goes on. */
async function show(id) {
  following.abort();
  following = new AbortController();
  const { signal } = following;
  shown = id;
  mark();
  document.body.dataset.pane = 'conversation';
  document.dispatchEvent(new Event('pane'));
  const transcript = new Transcript(byId('transcript'));
  try {
    const run = await get(`runs/${id}`);
    if (signal.aborted) return;
    // Nobody has followed the run that goes on while another was looked at.
    if (active !== null && active !== id && (await get('session')).active_run !== active) await ended();
    if (signal.aborted) return;
    transcript.said(run.prompt);
    if (!FINAL.includes(run.status)) {
      setActive(id);
      say('status', WORDS[run.status]);
    }
    const broken = (is) => say('status', is ? 'The connection broke; trying again…' : WORDS.running);
    for await (const event of follow(id, signal, broken)) {
      if (signal.aborted) return;
      transcript.take(event);
      if (id !== active) continue;
      if (event.event === 'run.started') say('status', WORDS.running);
      if (event.event === 'run.finalizing') say('status', WORDS.finalizing);
      if (event.event === 'run.finished') await ended();
    }
    // It was over before its events were looked at.
    if (!signal.aborted && id === active) await ended();
  } catch (error) {
    if (!signal.aborted) say('prompt-problem', error.message);
  }
}

async function ended() {
  setActive(null);
  await Promise.all([list(), tellSession()]);
}

async function start(prompt) {
  const request = { prompt, metadata: { title: [...prompt.trim().split('\n')[0]].slice(0, 80).join('') } };
  if (byId('model').value) request.model = byId('model').value;
  if (byId('thinking').value) request.thinking = byId('thinking').value;
  const response = await post('runs', request, { 'Idempotency-Key': crypto.randomUUID() });
  const run = await response.json();
  await list();
  show(run.id);
}

async function send(event) {
  event.preventDefault();
  const field = byId('prompt');
  const text = field.value;
  if (!text.trim()) return;
  say('prompt-problem', '');
  byId('send').disabled = true;
  try {
    if (active) await post(`runs/${active}/messages`, { text, mode: byId('mode').value });
    else await start(text);
    field.value = '';
  } catch (error) {
    say('prompt-problem', error.message);
    // Begun elsewhere, in another tab or by the portal.
    if (error.code === 'run_active' && error.run) show(error.run);
  } finally {
    byId('send').disabled = false;
    field.focus();
  }
}

function levels() {
  const model = models.find((model) => model.id === byId('model').value);
  const names = model ? model.thinking_levels : [];
  byId('thinking').replaceChildren(new Option('default', ''), ...names.map((name) => new Option(name, name)));
  byId('thinking').disabled = names.length === 0;
}

async function beginAnew() {
  const text = 'The conversation so far is set aside; files stay as they are.';
  if (!(await ask({ title: 'Begin a new session?', text, yes: 'Begin anew', no: 'Keep it' }))) return;
  try {
    await call('DELETE', 'session');
    await tellSession();
  } catch (error) {
    say('prompt-problem', error.message);
  }
}

/** Connects the elements, once. `activity` is told when a run begins or ends. */
export function connect(activity) {
  onActivity = activity;
  byId('prompt-form').onsubmit = send;
  byId('prompt').onkeydown = (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) byId('prompt-form').requestSubmit();
  };
  byId('cancel').onclick = async () => {
    say('status', 'The run is being cancelled…');
    try {
      if (active) await post(`runs/${active}/cancel`, {});
    } catch (error) {
      say('prompt-problem', error.message);
    }
  };
  byId('more-runs').onclick = () => list(older).catch((error) => say('prompt-problem', error.message));
  byId('new-session').onclick = beginAnew;
  byId('model').onchange = levels;
}

/** Shows what there is: the run that goes on, or the newest. */
export async function open() {
  setActive(null);
  models = (await get('models')).data;
  byId('model').replaceChildren(...models.map((model) => new Option(model.name, model.id, model.default, model.default)));
  levels();
  const [newest, going] = await Promise.all([list(), tellSession()]);
  const first = going || newest?.id;
  if (first) show(first);
  else byId('transcript').replaceChildren(element('p', 'dim empty', 'Nothing has been asked yet. Say below what the agent shall do in your workspace.'));
}

/** Forgets everything. */
export function close() {
  following.abort();
  setActive(null);
  shown = null;
  byId('runs').replaceChildren();
  byId('transcript').replaceChildren();
  byId('prompt').value = '';
  for (const id of ['session', 'prompt-problem', 'status']) say(id, '');
}
