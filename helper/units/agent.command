# The program of an agent's unit, word by word: enter, then pi.
-- /usr/lib/pi-gateway/pi-gateway-enter --run {run} --model-port {INTERNAL_PROVIDER_PORT} --
{PI_BIN} --mode rpc
# Nothing of the workspace is loaded as configuration: no extensions, skills, prompts, themes, context files, project trust.
-ne -ns -np --no-themes {context} -na --offline
-e /trusted/extension.mjs --append-system-prompt /trusted/AGENTS.md
# The user's one session.
--session-dir /session --session /session/session.jsonl
--provider gateway --model {PI_GATEWAY_DEFAULT_MODEL}
