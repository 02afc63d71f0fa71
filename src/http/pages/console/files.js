// The workspace: a directory at a time, uploads, the archive, the sync.

import { call, encodePath, get, isSignedIn, post, session } from './api.js';
import { ask, byId, bytes, element, save, say } from './dom.js';
import * as editor from './editor.js';

const PAGE = 200;
/** The most files of one request. */
const MOST = 32;

/** Where we are: the path as it is shown, and as a query has it. */
let here = { text: '', query: '' };
let next = null;
let agents = false; // Whether the workspace is the agent's at the moment.

const told = (error) => say('files-problem', error.paths?.length ? `${error.message}\n${error.paths.join('\n')}` : error.message);

/** Does something with the message of its failure shown. */
async function attempt(work) {
  say('files-problem', '');
  try {
    return await work();
  } catch (error) {
    told(error);
    return null;
  }
}

const join = (name) => ({
  text: here.text ? `${here.text}/${name}` : name,
  query: here.query ? `${here.query}%2F${encodeURIComponent(name)}` : encodeURIComponent(name),
});

function crumbs() {
  const [texts, queries] = [here.text.split('/'), here.query.split(/%2F/i)];
  const item = (name, place, last) => {
    const button = element('button', '', name);
    button.type = 'button';
    if (last) button.setAttribute('aria-current', 'location');
    button.onclick = () => enter(place);
    return element('li', '', button);
  };
  const items = [item('workspace', { text: '', query: '' }, !here.text)];
  for (let count = 1; here.text && count <= texts.length; count += 1) {
    const place = { text: texts.slice(0, count).join('/'), query: queries.slice(0, count).join('%2F') };
    items.push(item(texts[count - 1], place, count === texts.length));
  }
  byId('crumbs').replaceChildren(...items);
}

function item(entry) {
  const place = { text: entry.path, query: encodePath(entry) };
  const name = entry.path.slice(entry.path.lastIndexOf('/') + 1);
  const kind = entry.kind === 'file' ? bytes(entry.size) : entry.kind;
  const shown = entry.kind === 'directory' ? `${name}/` : name;
  const button = element('button', `file ${entry.kind}`, element('span', 'name', shown), element('span', 'size', kind));
  button.type = 'button';
  if (entry.target) button.title = `leads to ${entry.target}`;
  if (entry.kind === 'directory') button.onclick = () => enter(place);
  else if (entry.kind === 'file' || entry.kind === 'symlink') button.onclick = () => attempt(() => editor.open(place, refresh));
  else button.disabled = true;
  return element('li', '', button);
}

async function page(cursor) {
  const found = await get(`workspace/files?path=${here.query}&limit=${PAGE}${cursor ? `&cursor=${cursor}` : ''}`);
  if (!cursor) byId('files').replaceChildren();
  byId('files').append(...found.data.map(item));
  next = found.next;
  byId('more-files').hidden = next === null;
  note();
}

function note() {
  const empty = byId('files').childElementCount ? '' : 'Nothing is here yet.';
  say('files-note', agents ? 'The workspace is the agent’s until the run ends; reading goes on.' : empty);
}

async function enter(place) {
  const before = here;
  here = place;
  if ((await attempt(() => page(null).then(() => true))) === null) here = before;
  crumbs();
}

/** Looks again. */
export async function refresh() {
  crumbs();
  await attempt(async () => {
    await page(null);
    const found = await get('workspace');
    const git = found.git && found.git.branch ? `, branch ${found.git.branch}` : '';
    const changed = found.git?.changed_count ? `, ${found.git.changed_count} uncommitted` : '';
    say('workspace', `${bytes(found.size_bytes)} of ${bytes(found.quota_bytes)}${git}${changed}`);
  });
}

async function upload(files) {
  const chosen = [...files];
  if (chosen.length === 0) return;
  if (chosen.length > MOST) return told(new Error(`At most ${MOST} files at a time.`));
  const send = (overwrite) => {
    const form = new FormData();
    for (const file of chosen) form.append('file', file, file.name);
    return call('POST', `workspace/files?path=${here.query}${overwrite ? '&overwrite=true' : ''}`, { body: form });
  };
  say('files-note', `Uploading ${chosen.length === 1 ? chosen[0].name : `${chosen.length} files`}…`);
  await attempt(async () => {
    try {
      await send(false);
    } catch (error) {
      if (error.code !== 'already_exists') throw error;
      const question = { title: 'Replace what is there?', text: error.message, yes: 'Replace', no: 'Keep it' };
      if (!(await ask(question))) return;
      await send(true);
    }
  });
  const problem = byId('files-problem').textContent;
  await refresh();
  if (problem) say('files-problem', problem);
}

async function make(kind) {
  const name = await ask({ title: `New ${kind}`, text: `In ${here.text || 'the workspace'}`, value: '', yes: 'Make', no: 'Cancel' });
  if (!name) return;
  await attempt(async () => {
    if (kind === 'directory') await post('workspace/files', { op: 'mkdir', path: join(name).text });
    else await call('PUT', `workspace/files/content?path=${join(name).query}`, { body: '', headers: { 'If-None-Match': '*' } });
    await refresh();
    if (kind === 'file') await editor.open(join(name), refresh);
  });
}

async function archive() {
  const format = byId('format').value;
  say('files-note', 'The archive is being made…');
  await attempt(async () => {
    const response = await call('GET', `workspace/archive?format=${format}`);
    save(await response.blob(), `workspace.${format}`);
  });
  note();
}

async function sync() {
  say('files-note', 'Syncing…');
  const done = await attempt(async () => (await call('POST', 'workspace/sync')).json());
  const problem = byId('files-problem').textContent;
  await refresh();
  if (done) say('files-note', `Synced: ${done.outcome.replaceAll('_', ' ')}, ${done.push}.`);
  say('files-problem', problem);
}

/** While a run is active the workspace is its own: what would write is out of reach. */
export function setBusy(busy) {
  agents = busy;
  for (const one of document.querySelectorAll('[data-writes]')) one.disabled = busy;
  note();
  if (!busy && isSignedIn()) refresh();
}

/** Connects the elements, once. */
export function connect() {
  byId('refresh').onclick = refresh;
  byId('new-file').onclick = () => make('file');
  byId('new-directory').onclick = () => make('directory');
  byId('upload').onchange = async (event) => {
    await upload(event.target.files);
    event.target.value = '';
  };
  byId('more-files').onclick = () => attempt(() => page(next));
  byId('archive').onclick = archive;
  byId('sync').onclick = sync;
  const pane = byId('files-pane');
  pane.ondragover = (event) => {
    event.preventDefault();
    pane.classList.toggle('target', !byId('upload').disabled);
  };
  pane.ondragleave = () => pane.classList.remove('target');
  pane.ondrop = (event) => {
    event.preventDefault();
    pane.classList.remove('target');
    if (!byId('upload').disabled) upload(event.dataTransfer.files);
  };
  session.addEventListener('ended', editor.close);
}

/** Shows the workspace. */
export function open() {
  here = { text: '', query: '' };
  return refresh();
}

/** Forgets everything. */
export function close() {
  editor.close();
  byId('files').replaceChildren();
  byId('crumbs').replaceChildren();
  for (const id of ['files-note', 'files-problem', 'workspace']) say(id, '');
}
