// One run, as its events tell it.

import { element } from './dom.js';

/** Longest output of a tool that is shown while it runs, in characters; the whole comes with its end. */
const MAX_OUTPUT = 64 << 10;
/** How near to its end the reader must be for the view to go along, in pixels. */
const NEAR = 80;

export class Transcript {
  #place;
  #messages = new Map();
  #tools = new Map();
  #last = null;

  constructor(place) {
    this.#place = place;
    place.replaceChildren();
  }

  #add(entry) {
    this.#place.append(entry);
    return entry;
  }

  /** What somebody says who is not the agent. */
  said(text, who = 'You') {
    this.#add(element('div', 'entry user', element('div', 'who', who), element('div', 'text', text)));
  }

  #notice(text) {
    this.#add(element('div', 'entry aside', text));
  }

  #message(number, role) {
    let message = this.#messages.get(number);
    if (!message) {
      const text = element('div', 'text');
      const who = role === 'user' ? 'You' : 'Agent';
      const entry = element('div', role === 'user' ? 'entry user' : 'entry agent', element('div', 'who', who), text);
      entry.hidden = true;
      message = { entry: this.#add(entry), text, thinking: null };
      this.#messages.set(number, message);
      if (role !== 'user') this.#last = message;
    }
    return message;
  }

  #thinking(message) {
    if (!message.thinking) {
      message.thinking = element('div', 'text dim');
      message.text.before(element('details', '', element('summary', 'dim small', 'Thinking'), message.thinking));
    }
    return message.thinking;
  }

  #tool(id, name) {
    let tool = this.#tools.get(id);
    if (!tool) {
      const [summary, output] = [element('summary'), element('pre')];
      const entry = element('details', 'entry tool', summary, output);
      output.hidden = true;
      tool = { entry: this.#add(entry), summary, output, name };
      this.#tools.set(id, tool);
    }
    return tool;
  }

  /** Shows an event. */
  take({ event, data }) {
    const atEnd = this.#place.scrollHeight - this.#place.scrollTop - this.#place.clientHeight < NEAR;
    this.#show(event, data);
    if (atEnd) this.#place.scrollTop = this.#place.scrollHeight;
  }

  #show(event, data) {
    switch (event) {
      case 'message.started':
        this.#message(data.message, data.role);
        break;
      case 'text.delta': {
        const message = this.#message(data.message, 'assistant');
        message.entry.hidden = false;
        message.text.append(data.text);
        break;
      }
      case 'thinking.delta': {
        const message = this.#message(data.message, 'assistant');
        message.entry.hidden = false;
        this.#thinking(message).append(data.text);
        break;
      }
      case 'message.completed': {
        const message = this.#message(data.message, data.role);
        message.text.textContent = data.text + (data.truncated ? ' […]' : '');
        message.entry.hidden = !data.text && !message.thinking;
        if (data.error) this.#notice(`The answer failed: ${data.error}`);
        break;
      }
      case 'message.accepted':
        this.#notice('Your message waits for its turn.');
        break;
      case 'message.refused':
        this.#notice(`Your message is not in the conversation: ${data.reason}`);
        break;
      case 'tool.started': {
        const tool = this.#tool(data.tool_call_id, data.name);
        const given = data.arguments?.command ?? data.arguments?.path ?? JSON.stringify(data.arguments);
        tool.summary.replaceChildren(element('strong', '', data.name), ' ', element('code', '', String(given)));
        break;
      }
      case 'tool.output': {
        const { output } = this.#tool(data.tool_call_id, 'tool');
        output.hidden = false;
        output.textContent = (output.textContent + (data.gap ? '\n[…]\n' : '') + data.text).slice(-MAX_OUTPUT);
        break;
      }
      case 'tool.completed': {
        const tool = this.#tool(data.tool_call_id, data.name);
        tool.output.textContent = (data.truncated ? '[…] ' : '') + data.output;
        tool.output.hidden = !data.output;
        const took = data.duration_ms === undefined ? '' : ` in ${(data.duration_ms / 1000).toFixed(1)} s`;
        tool.summary.append(' ', element('span', 'dim small', (data.is_error ? 'failed' : 'done') + took));
        tool.entry.open = data.is_error;
        break;
      }
      case 'retry.scheduled':
        this.#last?.entry.classList.add('void');
        this.#notice(`The model could not be asked (${data.reason}). Try ${data.attempt} of ${data.max_attempts} in ${Math.ceil(data.delay_ms / 1000)} s.`);
        break;
      case 'compaction.started':
        this.#notice('The conversation is being shortened.');
        break;
      case 'compaction.completed':
        this.#notice(data.error ? `The conversation was not shortened: ${data.error}` : 'The conversation was shortened.');
        break;
      case 'notice':
        this.#notice(data.message);
        break;
      case 'run.finished': {
        const used = data.usage;
        const cost = used.cost_usd ? `, ${used.estimated ? 'about ' : ''}$${used.cost_usd.toFixed(4)}` : '';
        const state = element('span', 'state', data.status);
        state.dataset.state = data.status;
        const text = `${used.input_tokens} tokens in, ${used.output_tokens} out${cost}`;
        const entry = element('div', 'entry ended', state, ' ', element('span', 'dim small', text));
        entry.dataset.state = data.status;
        if (data.error) entry.append(element('div', 'text', `${data.error.message} (${data.error.code})`));
        this.#add(entry);
        break;
      }
      default:
      // run.started, run.finalizing and context.updated show elsewhere; what is new is nothing to fail at.
    }
  }
}
