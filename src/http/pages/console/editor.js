// One file: shown, edited, kept, renamed, removed. What is written replaces only the version that was read.

import { call, post } from './api.js';
import { ask, byId, bytes, save, say } from './dom.js';

/** The largest text that is edited, in bytes. */
const MAX_TEXT = 1 << 20;
/** The largest file that is looked into, in bytes. */
const MAX_LOOK = 16 << 20;
/** What is shown as a picture, and as what: the file's own word is not asked. */
const PICTURES = { png: 'image/png', jpg: 'image/jpeg', jpeg: 'image/jpeg', gif: 'image/gif', webp: 'image/webp' };

let place = null;
let etag = null;
let kept = '';
let picture = null;
let onChange = () => {};

const url = () => `workspace/files/content?path=${place.query}`;
const name = () => place.text.slice(place.text.lastIndexOf('/') + 1);

function clear() {
  if (picture) URL.revokeObjectURL(picture);
  picture = null;
  byId('editor-image').removeAttribute('src');
  byId('editor-text').value = '';
  for (const id of ['editor-text', 'editor-image', 'editor-save']) byId(id).hidden = true;
  say('editor-problem', '');
}

function text(content) {
  try {
    const decoded = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(content);
    return decoded.includes('\0') ? null : decoded;
  } catch {
    return null;
  }
}

async function read() {
  clear();
  const head = await call('HEAD', url());
  const size = Number(head.headers.get('Content-Length'));
  etag = head.headers.get('ETag');
  say('editor-title', place.text);
  const type = PICTURES[name().split('.').pop().toLowerCase()];
  if (size > MAX_LOOK || (size > MAX_TEXT && !type)) {
    return say('editor-note', `${bytes(size)}: too large to be shown; download it.`);
  }
  const response = await call('GET', url());
  etag = response.headers.get('ETag');
  const content = await response.arrayBuffer();
  const decoded = type ? null : text(content);
  if (type) {
    picture = URL.createObjectURL(new Blob([content], { type }));
    byId('editor-image').src = picture;
    byId('editor-image').alt = name();
    byId('editor-image').hidden = false;
  } else if (decoded !== null) {
    kept = decoded;
    byId('editor-text').value = decoded;
    byId('editor-text').hidden = byId('editor-save').hidden = false;
  }
  say('editor-note', `${bytes(content.byteLength)}${type || decoded !== null ? '' : ': no text; download it.'}`);
}

async function attempt(work) {
  say('editor-problem', '');
  try {
    await work();
  } catch (error) {
    say('editor-problem', error.message);
  }
}

const isChanged = () => !byId('editor-text').hidden && byId('editor-text').value !== kept.replaceAll('\r\n', '\n');

async function write() {
  const given = byId('editor-text').value;
  // A text area knows one kind of line end; the file keeps its own.
  const content = kept.includes('\r\n') ? given.replaceAll('\n', '\r\n') : given;
  try {
    const response = await call('PUT', url(), { body: content, headers: etag ? { 'If-Match': etag } : {} });
    etag = response.headers.get('ETag');
    kept = content;
    say('editor-note', `Saved, ${bytes(new Blob([content]).size)}.`);
    onChange();
  } catch (error) {
    if (error.code !== 'precondition_failed') throw error;
    throw new Error('The file has changed since it was opened. Copy what you need, close it and open it again.');
  }
}

async function move() {
  const to = await ask({ title: 'Rename', text: place.text, label: 'New path', value: place.text, yes: 'Rename', no: 'Cancel' });
  if (!to || to === place.text) return;
  await post('workspace/files', { op: 'move', from: place.text, to });
  place = { text: to, query: encodeURIComponent(to) };
  await read();
  onChange();
}

async function remove() {
  if (!(await ask({ title: 'Delete this file?', text: place.text, yes: 'Delete', no: 'Keep it' }))) return;
  await call('DELETE', url());
  byId('editor').close();
  onChange();
}

async function leave() {
  const question = { title: 'Leave without saving?', text: place.text, yes: 'Leave', no: 'Stay' };
  if (!isChanged() || (await ask(question))) byId('editor').close();
}

/** Opens a file; `changed` is called after each change. */
export async function open(where, changed) {
  [place, onChange] = [where, changed];
  await read();
  if (!byId('editor').open) byId('editor').showModal();
  if (!byId('editor-text').hidden) byId('editor-text').focus();
}

/** Closes it, whatever is in it. */
export function close() {
  byId('editor').close();
}

byId('editor-save').onclick = () => attempt(write);
byId('editor-move').onclick = () => attempt(move);
byId('editor-remove').onclick = () => attempt(remove);
byId('editor-download').onclick = () => attempt(async () => save(await (await call('GET', url())).blob(), name()));
byId('editor-close').onclick = leave;
byId('editor-form').onsubmit = (event) => event.preventDefault();
byId('editor').onclose = clear;
byId('editor').oncancel = (event) => {
  if (!isChanged()) return;
  event.preventDefault();
  leave();
};
