// The API's description, made in the browser from openapi.json of the same gateway.

import { element, prose, Schemas } from './schema.js';

const METHODS = ['get', 'post', 'put', 'delete', 'head', 'patch'];
const byId = (id) => document.getElementById(id);

function table(heads, rows) {
  const head = element('tr', '', ...heads.map((text) => element('th', '', text)));
  const lines = rows.map((cells) => element('tr', '', ...cells.map((cell) => element('td', '', ...cell))));
  return element('div', 'scroll', element('table', '', element('thead', '', head), element('tbody', '', ...lines)));
}

function contents(schemas, content = {}) {
  return Object.entries(content).flatMap(([type, { schema }]) => [
    element('p', 'small dim', type),
    ...(schema ? [schemas.show(schema)] : []),
  ]);
}

function parameters(schemas, list = []) {
  if (list.length === 0) return [];
  const rows = list.map((one) => [
    [element('code', '', one.name), ...(one.required ? [' ', element('span', 'needed', 'needed')] : [])],
    [one.in],
    schemas.brief(one.schema || {}),
    prose(one.description),
  ]);
  return [element('h3', '', 'Parameters'), table(['name', 'in', 'type', 'meaning'], rows)];
}

function responses(schemas, all) {
  const parts = Object.entries(all).map(([status, response]) => {
    const head = element('summary', '', element('span', 'status', status), ' ', ...prose(response.description));
    const headers = Object.entries(response.headers || {}).map(([name, header]) =>
      element('p', 'small', element('code', '', name), ' ', ...prose(header.description)),
    );
    return element('details', '', head, ...headers, ...contents(schemas, response.content));
  });
  return [element('h3', '', 'Answers'), ...parts];
}

function operation(schemas, path, method, one) {
  const summary = element(
    'summary',
    '',
    element('span', `method ${method}`, method.toUpperCase()),
    element('span', 'path', path),
    element('span', 'dim', ...prose(one.summary)),
  );
  const body = one.requestBody
    ? [element('h3', '', 'Body'), ...contents(schemas, one.requestBody.content)]
    : [];
  const text = one.description ? [element('p', '', ...prose(one.description))] : [];
  const free = one.security ? [] : [element('p', 'small dim', 'Needs no token.')];
  const inside = element('div', '', ...text, ...free, ...parameters(schemas, one.parameters), ...body, ...responses(schemas, one.responses));
  const made = element('details', 'operation', summary, inside);
  made.id = `${method}${path.replaceAll(/[^a-z]+/g, '-')}`;
  made.dataset.words = `${method} ${path} ${one.summary || ''} ${one.description || ''}`.toLowerCase();
  return made;
}

function link(made, method, path) {
  const entry = element('a', '', element('span', `method ${method}`, method.toUpperCase()), element('span', '', path));
  entry.href = `#${made.id}`;
  entry.onclick = () => (made.open = true);
  return entry;
}

function show(document_) {
  const schemas = new Schemas(document_);
  byId('title').textContent = `${document_.info.title} API`;
  byId('version').textContent = document_.info.version;
  byId('about').replaceChildren(...prose(document_.info.description));
  const scheme = Object.values(document_.components?.securitySchemes || {})[0];
  byId('security').replaceChildren(...prose(scheme?.description || ''));
  for (const tag of document_.tags || []) {
    byId('contents').append(element('h2', '', tag.name));
    byId('operations').append(element('h2', '', tag.name, ' ', element('span', 'dim small', tag.description || '')));
    for (const [path, methods] of Object.entries(document_.paths)) {
      for (const method of METHODS.filter((method) => methods[method]?.tags?.includes(tag.name))) {
        const made = operation(schemas, path, method, methods[method]);
        byId('operations').append(made);
        byId('contents').append(link(made, method, path));
      }
    }
  }
  const wanted = document.getElementById(location.hash.slice(1));
  if (wanted instanceof HTMLDetailsElement) {
    wanted.open = true;
    wanted.scrollIntoView();
  }
}

byId('filter').oninput = (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const one of document.querySelectorAll('.operation')) {
    one.hidden = !words.every((word) => one.dataset.words.includes(word));
  }
};

try {
  const response = await fetch(new URL('openapi.json', new URL('.', location.href)), { credentials: 'omit' });
  if (!response.ok) throw new Error(`the gateway answered ${response.status}`);
  show(await response.json());
} catch (error) {
  byId('problem').textContent = `openapi.json cannot be shown: ${error.message}`;
}
