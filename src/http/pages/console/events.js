// The events of a run: what there is so far in pages, then live as a stream that is taken up where it broke off.

import { call, Problem } from './api.js';

const PAGE = 1000;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 10_000;

/** Takes a stream of server-sent events apart, however it is cut into pieces. */
export class Parser {
  #rest = '';
  #event = {};

  /** The events that are complete with this piece. */
  feed(text) {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop();
    const complete = [];
    for (const line of lines) {
      if (line === '') {
        if (this.#event.data !== undefined) complete.push({ ...this.#event, data: JSON.parse(this.#event.data) });
        this.#event = {};
      } else if (!line.startsWith(':')) {
        const at = line.indexOf(': ');
        this.#event[line.slice(0, at)] = line.slice(at + 2);
      }
    }
    return complete;
  }
}

/** What has happened so far, without waiting for more. Gives the id of the last event, null when the run is over. */
async function* past(run, signal) {
  let after = '';
  for (;;) {
    const path = `runs/${run}/events?limit=${PAGE}${after && `&after=${after}`}`;
    const response = await call('GET', path, { headers: { Accept: 'application/json' }, signal });
    if (response.status === 204) return null;
    const page = await response.json();
    yield* page.data;
    if (page.next === null) return null;
    after = page.next;
    if (page.data.length < PAGE) return after;
  }
}

async function* stream(run, after, signal) {
  const headers = { Accept: 'text/event-stream', 'Last-Event-ID': after };
  const response = await call('GET', `runs/${run}/events`, { headers, signal });
  if (response.status === 204) return;
  const parser = new Parser();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield* parser.feed(value);
  }
}

const pause = (time, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, time);
    signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
  });

/**
 * All events of a run from its beginning, live once it gets there, until the run is over or `signal` says so. A broken
 * stream is taken up behind the last event that came; `broken` is called with true, and with false when it goes on.
 */
export async function* follow(run, signal, broken) {
  let after = yield* past(run, signal);
  let wait = FIRST_PAUSE;
  while (after !== null && !signal.aborted) {
    try {
      for await (const event of stream(run, after, signal)) {
        broken(false);
        wait = FIRST_PAUSE;
        after = event.id;
        yield event;
        if (event.event === 'run.finished') return;
      }
    } catch (error) {
      if (signal.aborted) return;
      // What is not allowed or not there stays so; a connection that broke may be made again.
      if (error instanceof Problem && error.status >= 400 && error.status < 500 && ![408, 429].includes(error.status)) throw error;
    }
    broken(true);
    await pause(wait, signal);
    wait = Math.min(2 * wait, LONGEST_PAUSE);
  }
}
