// Making and filling elements. Whatever comes from outside goes in as text: there is no other way in here.

/** The element with an id. */
export const byId = (id) => document.getElementById(id);

/** An element with a class and children; strings become text. */
export function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** Says something in a place, or takes it away. */
export function say(id, text) {
  byId(id).textContent = text || '';
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** Bytes for people. */
export function bytes(count) {
  let unit = 0;
  while (count >= 1024 && unit < UNITS.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit && count < 10 ? count.toFixed(1) : Math.round(count)} ${UNITS[unit]}`;
}

/** A time for people. */
export const time = (text) => {
  const form = { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hourCycle: 'h23' };
  return text ? new Date(text).toLocaleString([], form) : '';
};

/**
 * Asks a question in a dialog: yes or no, or, with a `value`, for a text. Gives true or the text; null for no.
 */
export function ask({ title, text = '', value = null, label = 'Name', yes = 'Yes', no = 'No' }) {
  const dialog = byId('question');
  const input = byId('question-value');
  say('question-title', title);
  say('question-text', text);
  say('question-label', label);
  say('question-yes', yes);
  say('question-no', no);
  const wanted = value !== null;
  input.hidden = !wanted;
  input.required = wanted;
  byId('question-label').hidden = !wanted;
  input.value = value || '';
  dialog.returnValue = '';
  dialog.showModal();
  if (wanted) input.focus();
  return new Promise((resolve) => {
    byId('question-form').onsubmit = () => dialog.close('yes');
    byId('question-no').onclick = () => dialog.close('');
    dialog.onclose = () => resolve(dialog.returnValue === 'yes' ? (wanted ? input.value : true) : null);
  });
}

/** Gives the reader a file to keep. */
export function save(blob, name) {
  const link = element('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // Not before the browser has taken it.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
