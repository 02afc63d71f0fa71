// pi's extension inside the sandbox: the one model provider there is, a tool for images, and a time limit for bash.
//
// The models come from the operator's list beside this file; requests go to the gateway's model relay on the
// sandbox's own loopback, which adds the credential outside. Nothing secret is in here: the key is a placeholder
// that the relay drops. It is one provider to pi, whoever's a model is: each model says which API it is asked by.
// A missing or unreadable list, or a missing GATEWAY_URL, throws, and pi then exits 1.

import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { link, mkdir, open, rename, rm } from "node:fs/promises";
import { dirname, extname, join, relative, resolve } from "node:path";
import { Type } from "typebox"; // pi brings it along

// Seconds a bash command may run when the model names no limit; pi itself has none.
const BASH_TIMEOUT_S = 600;

// By which of pi's APIs the models of a provider are asked: POST .../responses or .../codex/responses.
const APIS = { openai: "openai-responses", codex: "openai-codex-responses" };

// pi looks for an account in the token of a Codex model before it asks anything, so the placeholder is a token with
// one; it is signed by nobody. No - or _ may be in its middle, which pi decodes as plain base64.
const base64 = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const PLACEHOLDER = [
  base64({ alg: "none", typ: "JWT" }),
  base64({ "https://api.openai.com/auth": { chatgpt_account_id: "placeholder-account" }, exp: 4102444800 }),
  "placeholder",
].join(".");

const LEVELS = ["off", "minimal", "low", "medium", "high", "xhigh", "max"];

const WORKSPACE = "/workspace";
// Seconds an image may take: the relay's own limit, and a little more.
const IMAGE_TIMEOUT_S = 310;
// The largest image that is shown to the model, in bytes: every later request of the session carries it again.
const SHOWN = 2 << 20;
const FORMATS = { ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp" };

// Where an image goes: where the model says, below the workspace, or a new name in public/images.
function place(prompt, path) {
  if (path === undefined) {
    const words = prompt.toLowerCase().match(/[a-z0-9]+/g) ?? [];
    const slug = words.reduce((all, word) => (all.length + word.length < 40 ? `${all}${word}-` : all), "");
    return join(WORKSPACE, "public/images", `${slug}${randomBytes(4).toString("hex")}.png`);
  }
  const file = resolve(WORKSPACE, path);
  if (relative(WORKSPACE, file).startsWith("..")) throw new Error("path: a file in the workspace");
  return file;
}

// Writes a file whole or not at all. Under a name that was made up here nothing is replaced.
async function write(file, bytes, replace) {
  await mkdir(dirname(file), { recursive: true });
  const temporary = join(dirname(file), `.${randomBytes(8).toString("hex")}.tmp`);
  try {
    const out = await open(temporary, "wx", 0o644);
    try {
      await out.writeFile(bytes);
      await out.sync();
    } finally {
      await out.close();
    }
    if (replace) await rename(temporary, file);
    else await link(temporary, file);
  } finally {
    await rm(temporary, { force: true });
  }
}

// The relay makes the image and has looked at it: what comes is one whole image, or an error with a sentence.
async function image(baseUrl, wish, signal) {
  const late = AbortSignal.timeout(IMAGE_TIMEOUT_S * 1000);
  const response = await fetch(`${baseUrl}/images/generations`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(wish),
    signal: signal ? AbortSignal.any([signal, late]) : late,
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error?.message ?? `the gateway answered ${response.status}`);
  return answer.data[0].b64_json;
}

function imageTool(baseUrl) {
  const oneOf = (...words) => Type.Optional(Type.Union(words.map((word) => Type.Literal(word))));
  return {
    name: "generate_image",
    label: "Generate image",
    description:
      "Makes an image from a description and saves it in the workspace, by default as a new PNG in public/images. " +
      "Returns where it is, and shows it. Costs money: make what was asked for, not variants.",
    promptSnippet: "Make an image from a description and save it in the workspace",
    parameters: Type.Object({
      prompt: Type.String({ description: "What it shall show" }),
      path: Type.Optional(
        Type.String({ description: "The file, ending in .png, .jpg or .webp; one that is there is replaced" }),
      ),
      size: oneOf("auto", "1024x1024", "1536x1024", "1024x1536"),
      quality: oneOf("auto", "low", "medium", "high"),
      background: oneOf("auto", "opaque", "transparent"),
    }),
    async execute(_id, { path, ...wish }, signal) {
      const file = place(wish.prompt, path);
      const format = FORMATS[extname(file).toLowerCase()];
      if (!format) throw new Error("path: its name ends in .png, .jpg, .jpeg or .webp");
      const data = await image(baseUrl, { ...wish, output_format: format }, signal);
      const bytes = Buffer.from(data, "base64");
      await write(file, bytes, path !== undefined);
      const text = `Saved to ${relative(WORKSPACE, file)} (${format}, ${bytes.length} bytes).`;
      const shown = bytes.length <= SHOWN ? [{ type: "image", data, mimeType: `image/${format}` }] : [];
      return { content: [{ type: "text", text }, ...shown], details: {} };
    },
  };
}

// pi wants every level mapped: to what the provider calls it, or to null where the model does not have it.
function levels(offered) {
  return Object.fromEntries(
    LEVELS.map((level) => [level, offered.includes(level) ? (level === "off" ? "none" : level) : null]),
  );
}

export default function (pi) {
  const baseUrl = process.env.GATEWAY_URL;
  if (!baseUrl) throw new Error("GATEWAY_URL is not set: this extension only works in the gateway's sandbox");
  const models = JSON.parse(readFileSync(new URL("models.json", import.meta.url), "utf8"));

  pi.registerProvider("gateway", {
    name: "Gateway",
    baseUrl,
    apiKey: PLACEHOLDER,
    models: models.map((m) => ({
      id: m.id,
      api: APIS[m.provider ?? "openai"],
      name: m.name,
      reasoning: m.reasoning,
      input: m.input,
      cost: {
        input: m.cost.input,
        output: m.cost.output,
        cacheRead: m.cost.cache_read,
        cacheWrite: m.cost.cache_write,
      },
      contextWindow: m.context_window,
      maxTokens: m.max_tokens,
      ...(m.reasoning ? { thinkingLevelMap: levels(m.thinking_levels) } : {}),
    })),
  });

  pi.registerTool(imageTool(baseUrl));

  pi.on("tool_call", async (event) => {
    if (event.toolName === "bash") event.input.timeout ??= BASH_TIMEOUT_S;
  });
}
