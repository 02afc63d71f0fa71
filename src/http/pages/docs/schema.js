// Schemas of the API, as lists of what is in them.

/** How deep schemas are shown within each other; below that stands their name. */
const DEPTH = 4;

/** An element with a class and children; strings become text. */
export function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** Text in which what stands between backticks is code. */
export function prose(text = '') {
  return text.split('`').map((part, index) => (index % 2 ? element('code', '', part) : part));
}

const nameOf = (schema) => schema.$ref?.split('/').pop();

const isNull = (schema) => schema.type === 'null';

/** What a schema is, in a few words. */
function kind(schema) {
  if (schema.$ref) return nameOf(schema);
  const several = schema.oneOf || schema.anyOf;
  if (several) return several.map(kind).join(' | ');
  if (schema.allOf) return schema.allOf.map(kind).join(' & ');
  const types = [schema.type].flat().filter(Boolean);
  const words = types.map((type) => {
    if (type === 'array') return `array of ${kind(schema.items || {})}`;
    if (schema.contentSchema) return `${type} of JSON: ${kind(schema.contentSchema)}`;
    return type === 'string' && schema.format ? `string (${schema.format})` : type;
  });
  return words.join(' | ') || 'any';
}

/** What holds beside its type. */
function limits(schema) {
  const told = [];
  const tell = (name, word) => schema[name] !== undefined && told.push(`${word} ${schema[name]}`);
  if (schema.enum) told.push(`one of ${schema.enum.map((value) => JSON.stringify(value)).join(', ')}`);
  tell('minimum', 'at least');
  tell('maximum', 'at most');
  tell('minLength', 'characters at least');
  tell('maxLength', 'characters at most');
  tell('minItems', 'items at least');
  tell('maxItems', 'items at most');
  tell('pattern', 'matches');
  if (schema.default !== undefined) told.push(`default ${JSON.stringify(schema.default)}`);
  return told.join('; ');
}

/** Shows schemas; the references in them lead into one document. */
export class Schemas {
  #all;

  constructor(document) {
    this.#all = document.components?.schemas || {};
  }

  #resolve(schema) {
    return schema.$ref ? this.#all[nameOf(schema)] || {} : schema;
  }

  /** The parts of a schema below its own name: its properties or its alternatives. */
  #inside(schema, depth) {
    const found = this.#resolve(schema);
    if (depth > DEPTH) return [];
    const several = found.oneOf || found.anyOf || found.allOf;
    if (several) {
      const parts = several.filter((part) => !isNull(part));
      if (parts.length === 1) return this.#inside(parts[0], depth);
      return [element('ul', '', ...parts.map((part) => element('li', '', ...this.#line(part), ...this.#inside(part, depth + 1))))];
    }
    const content = found.items || found.contentSchema;
    if (content) return this.#inside(content, depth);
    if (!found.properties) return [];
    const needed = new Set(found.required || []);
    const lines = Object.entries(found.properties).map(([name, property]) => {
      const title = [element('code', '', name), ' '];
      if (needed.has(name)) title.push(element('span', 'needed', 'always'), ' ');
      return element('li', '', ...title, ...this.#line(property), ...this.#nested(property, depth));
    });
    return [element('ul', '', ...lines)];
  }

  #nested(schema, depth) {
    const inside = this.#inside(schema, depth + 1);
    return inside.length ? [element('div', 'schema', ...inside)] : [];
  }

  #line(schema) {
    const found = this.#resolve(schema);
    const said = [schema.description || found.description, limits(found)].filter(Boolean).join(' — ');
    return [element('span', 'type', kind(schema)), ' ', ...prose(said)];
  }

  /** A schema as an element. */
  show(schema) {
    return element('div', 'schema', ...this.#line(schema), ...this.#inside(schema, 0));
  }

  /** A schema in one line. */
  brief(schema) {
    return [element('span', 'type', kind(schema)), ' ', ...prose(limits(schema))];
  }
}
