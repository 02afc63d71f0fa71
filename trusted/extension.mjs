// pi's extension inside the sandbox: the one model provider there is, and a time limit for bash.
//
// The models come from the operator's list beside this file; requests go to the gateway's model relay on the
// sandbox's own loopback, which adds the credential outside. Nothing secret is in here: the key is a placeholder
// that the relay drops. A missing or unreadable list, or a missing GATEWAY_URL, throws, and pi then exits 1.

import { readFileSync } from "node:fs";

// Seconds a bash command may run when the model names no limit; pi itself has none.
const BASH_TIMEOUT_S = 600;

const LEVELS = ["off", "minimal", "low", "medium", "high", "xhigh", "max"];

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
    apiKey: "placeholder",
    api: "openai-responses",
    models: models.map((m) => ({
      id: m.id,
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

  pi.on("tool_call", async (event) => {
    if (event.toolName === "bash") event.input.timeout ??= BASH_TIMEOUT_S;
  });
}
