// The API with the reader's token, which is kept for this tab only (sessionStorage) and goes to this origin only.

const KEY = 'pi-gateway-token';
// Beside the page, so that a proxy may have all of it below a path of its own.
const BASE = new URL('.', location.href);

/** What the gateway says when it does not do something. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `The gateway answered ${status}.`);
    this.status = status;
    this.code = document.code || '';
    this.run = document.run_id || null;
    this.paths = document.paths || [];
  }
}

/** Tells `ended` when the token is not good any more. */
export const session = new EventTarget();

let token = sessionStorage.getItem(KEY);

export const isSignedIn = () => Boolean(token);

export function signIn(text) {
  token = text;
  sessionStorage.setItem(KEY, token);
}

export function signOut() {
  token = null;
  sessionStorage.removeItem(KEY);
}

/** Whom the token names, as it says itself: only to be shown. */
export function user() {
  try {
    const part = token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/');
    const name = JSON.parse(atob(part)).sub;
    return typeof name === 'string' ? name : '';
  } catch {
    return '';
  }
}

/** Makes a request; the path is one of the API without its first slash. Throws a `Problem`. */
export async function call(method, path, { headers = {}, body, signal } = {}) {
  const used = token;
  let response;
  try {
    response = await fetch(new URL(path, BASE), {
      method,
      body,
      signal,
      headers: { Authorization: `Bearer ${used}`, ...headers },
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, { code: 'unreachable', detail: 'The gateway cannot be reached.' });
  }
  if (response.ok) return response;
  let told = {};
  try {
    told = await response.json();
  } catch {
    // A proxy's page, or nothing.
  }
  const problem = new Problem(response.status, told);
  // An answer to an earlier token says nothing about this one.
  if (response.status === 401 && used === token) session.dispatchEvent(new CustomEvent('ended', { detail: problem.message }));
  throw problem;
}

export const get = async (path) => (await call('GET', path)).json();

export const post = (path, value, headers = {}) =>
  call('POST', path, { body: JSON.stringify(value), headers: { 'Content-Type': 'application/json', ...headers } });

/** A path as a query has it: a listed name that is not UTF-8 byte by byte. */
export function encodePath(entry) {
  if (!entry.path_b64) return encodeURIComponent(entry.path);
  return [...atob(entry.path_b64)].map((c) => `%${c.charCodeAt(0).toString(16).padStart(2, '0').toUpperCase()}`).join('');
}
