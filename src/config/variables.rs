//! The table of all variables: each is declared here, once. `pi-gateway config-reference` and
//! docs/platform-config-and-testing.md are made from it.

use super::checks::{self, Checked, number};

/// A program that reads a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the programs")]
pub enum Reader {
    Front,
    Launcher,
    ModelRelay,
    GitRelay,
    EgressRelay,
    Worker,
}

/// One variable.
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What holds when it is not set, or set to nothing.
    pub default: &'static str,
    /// Whether it must be set.
    pub required: bool,
    /// What makes a value of it.
    pub check: fn(&str) -> Checked,
    /// Who reads it. Another program never gets to see it.
    pub readers: &'static [Reader],
    /// What it means.
    pub meaning: &'static str,
}

use Reader::{EgressRelay as E, Front as F, GitRelay as G, Launcher as L, ModelRelay as M, Worker as W};

const fn of(
    name: &'static str,
    default: &'static str,
    check: fn(&str) -> Checked,
    readers: &'static [Reader],
    meaning: &'static str,
) -> Variable {
    Variable { name, default, required: false, check, readers, meaning }
}

/// A group of the table.
pub type Group = (&'static str, &'static [Variable]);

/// Where things lie when nothing else is said; the prefix of the runtime package.
const TRUSTED_EXTENSION: &str = "/usr/lib/pi-gateway/trusted/extension.mjs";

/// All variables, in groups.
pub const GROUPS: &[Group] = &[
    (
        "Network and time",
        &[
            of("HOST", "127.0.0.1", checks::address, &[F], "Address to listen on; must agree with pi-gateway.socket"),
            of("PORT", "8787", |v| number(v, 1, 65535), &[F], "Port to listen on; must agree with pi-gateway.socket"),
            of(
                "REQUEST_TIMEOUT_MS",
                "30000",
                |v| number(v, 1000, 600_000),
                &[F, M],
                "Time for an ordinary request, and for a request's body to arrive at the relay",
            ),
            of(
                "WORKSPACE_FINALIZATION_TIMEOUT_MS",
                "120000",
                |v| number(v, 1000, 3_600_000),
                &[F, L],
                "Time for each thing that follows a run: stopping its sandbox, exporting its site, commit and push",
            ),
            of("MAX_UPLOAD_MB", "50", |v| number(v, 1, 10_240), &[F, W], "Largest file that can be uploaded, in MiB"),
            of(
                "CORS_ORIGINS",
                "",
                checks::origins,
                &[F],
                "Origins whose pages may call the API, separated by commas; none unless set",
            ),
            of(
                "CONSOLE_ENABLED",
                "false",
                checks::boolean,
                &[F],
                "Whether there is a page at `/console` on which people work with a token; docs/console.md",
            ),
            of(
                "LOG_FORMAT",
                "json",
                |v| checks::one_of(v, &["json", "text"]),
                &[F],
                "The form of the front's lines in the journal, `json` or `text`",
            ),
            of(
                "LOG_LEVEL",
                "info",
                |v| checks::one_of(v, &["error", "warn", "info", "debug"]),
                &[F],
                "What of them is told: `error`, `warn`, `info` or `debug`; at `info` there is one for each request",
            ),
        ],
    ),
    (
        "Tokens and users",
        &[
            Variable {
                name: "JWT_SHARED_SECRET",
                default: "",
                required: true,
                check: checks::secret,
                readers: &[F],
                meaning: "Secret of at least 32 bytes that tokens are signed with (HS256)",
            },
            of(
                "JWT_SHARED_SECRET_PREVIOUS",
                "",
                |v| if v.is_empty() { Ok(()) } else { checks::secret(v) },
                &[F],
                "The secret before, accepted as well while it is being replaced",
            ),
            of("JWT_ISSUER", "", checks::optional_line, &[F], "`iss` that a token must have; not looked at unless set"),
            of(
                "JWT_AUDIENCE",
                "",
                checks::optional_line,
                &[F],
                "`aud` that a token must hold; not looked at unless set",
            ),
            of("JWT_USER_CLAIM", "sub", checks::claim, &[F], "Claim that names the user"),
            of(
                "JWT_MAX_LIFETIME_S",
                "86400",
                |v| number(v, 60, 31_536_000),
                &[F],
                "Longest lifetime of a token, in seconds",
            ),
            of(
                "BASE_WORKDIR",
                "/var/lib/pi-gateway/workspaces",
                checks::state_path,
                &[L],
                "Directory of the workspaces, one a user",
            ),
            of(
                "SESSION_DIR",
                "/var/lib/pi-gateway/sessions",
                checks::state_path,
                &[L],
                "Directory of the sessions, one a user",
            ),
        ],
    ),
    (
        "pi and its models",
        &[
            of(
                "PI_BIN",
                "/usr/lib/pi-gateway/runtime/1.5.2/pi",
                checks::program_path,
                &[L],
                "The program pi; must lie below /usr",
            ),
            of(
                "INTERNAL_PROVIDER_HOST",
                "127.0.0.1",
                checks::loopback,
                &[F],
                "Where pi reaches its models, inside its sandbox; nothing else is possible",
            ),
            of("INTERNAL_PROVIDER_PORT", "4180", |v| number(v, 1024, 65535), &[L, M], "Port for the same"),
            of("PI_GATEWAY_EXTENSION_PATH", TRUSTED_EXTENSION, checks::path, &[L], "The extension that pi loads"),
            of(
                "PI_SANDBOX_AGENTS_PATH",
                "/usr/lib/pi-gateway/trusted/AGENTS.md",
                checks::path,
                &[L],
                "Instructions added to pi's own",
            ),
            of(
                "PI_DISABLE_CONTEXT_FILES",
                "true",
                checks::boolean,
                &[L],
                "Whether AGENTS.md and CLAUDE.md of a workspace are left out of the context",
            ),
            of(
                "PI_GATEWAY_MODELS",
                "/usr/lib/pi-gateway/trusted/models.json",
                checks::path,
                &[F, L, M],
                "JSON file with the models on offer and their prices",
            ),
            of("PI_GATEWAY_DEFAULT_MODEL", "gpt-6-sol", checks::model, &[F, L], "The model of a run that names none"),
            of(
                "OPENAI_BASE_URL",
                "https://api.openai.com/v1",
                checks::upstream,
                &[M],
                "The upstream; the relay calls its `/responses` and `/images/generations`",
            ),
            of(
                "PI_GATEWAY_CODEX_AUTH_FILE",
                "",
                checks::codex_file,
                &[L, M],
                "The auth.json of Codex or pi with a ChatGPT account, for models of the provider codex; rotated tokens are \
                 written to it",
            ),
            of(
                "PI_GATEWAY_CODEX_UPSTREAM_BASE_URL",
                "https://chatgpt.com/backend-api",
                checks::codex_upstream,
                &[M],
                "The upstream for those; the relay calls its `/codex/responses`",
            ),
            of(
                "PI_GATEWAY_CODEX_TOKEN_URL",
                "https://auth.openai.com/oauth/token",
                checks::codex_token_url,
                &[M],
                "Where the account's tokens are exchanged",
            ),
            of(
                "USER_DAILY_TOKEN_BUDGET",
                "0",
                |v| number(v, 0, 1 << 50),
                &[M],
                "Tokens a user may spend in 24 hours, input and output together; 0 for no limit",
            ),
        ],
    ),
    (
        "Images",
        &[
            of("OPENAI_IMAGE_MODEL", "gpt-image-2", checks::model, &[M], "Model of the Images API"),
            of("OPENAI_IMAGE_SIZE", "1024x1024", checks::image_size, &[M], "Size of an image unless asked otherwise"),
            of(
                "OPENAI_RESPONSES_MODEL",
                "",
                |v| if v.is_empty() { Ok(()) } else { checks::model(v) },
                &[M],
                "Model that makes images as a tool of the Responses API; the Images API is used unless set",
            ),
        ],
    ),
    (
        "The sandbox",
        &[
            of("SANDBOX_MEMORY_MAX", "1G", checks::memory, &[L], "Memory of one agent"),
            of(
                "SANDBOX_TASKS_MAX",
                "256",
                |v| number(v, 32, 10_000),
                &[L],
                "Processes and threads of one agent; pi alone has a dozen",
            ),
            of(
                "SANDBOX_CPU_QUOTA",
                "200%",
                checks::percent,
                &[L],
                "Processor time of one agent; 100% is one processor. pi's threads use two while it starts",
            ),
            of(
                "SANDBOX_INTERNET_ENABLED",
                "false",
                checks::boolean,
                &[F, L, E],
                "Whether agents reach the internet through the egress relay",
            ),
            of(
                "SANDBOX_INTERNET_ALLOW",
                "",
                checks::hosts,
                &[E],
                "Hosts they may reach then, separated by commas, `*.example.org` for all below one; all public ones unless set",
            ),
            of("RUN_TIMEOUT_MS", "1800000", |v| number(v, 1000, 86_400_000), &[F, L], "Longest a run may take"),
            of(
                "RUN_CANCEL_GRACE_MS",
                "5000",
                |v| number(v, 100, 60_000),
                &[F, L],
                "Time for pi to end a turn by itself before its sandbox is stopped",
            ),
            of("MAX_CONCURRENT_RUNS", "8", |v| number(v, 1, 100), &[F, L], "Active runs on this machine"),
            of("WORKSPACE_QUOTA_MB", "1024", |v| number(v, 16, 1 << 20), &[F, L, G], "Size of one workspace, in MiB"),
            of(
                "RUN_RETENTION_DAYS",
                "30",
                |v| number(v, 1, 3650),
                &[F, M],
                "Days that runs, events, usage and old sessions are kept",
            ),
            of(
                "SITES_DIR",
                "",
                |v| if v.is_empty() { Ok(()) } else { checks::sites_path(v) },
                &[F],
                "Where built sites are exported to, such as /var/lib/pi-gateway/sites; not exported unless set",
            ),
        ],
    ),
    (
        "git and Gitea",
        &[
            of(
                "WORKSPACE_GIT_INIT_ENABLED",
                "true",
                checks::boolean,
                &[F],
                "Whether a new workspace becomes a git repository",
            ),
            of("WORKSPACE_GIT_DEFAULT_BRANCH", "main", checks::branch, &[F], "Its branch"),
            of(
                "WORKSPACE_GIT_INITIAL_COMMIT_MESSAGE",
                "Initial commit",
                checks::line,
                &[F],
                "Message of its first commit",
            ),
            of(
                "WORKSPACE_REMOTE_MODE",
                "none",
                |v| checks::one_of(v, &["none", "gitea"]),
                &[F, L],
                "Whether workspaces are kept in step with Gitea",
            ),
            of(
                "WORKSPACE_AUTO_COMMIT_AUTHOR_NAME",
                "pi-gateway",
                checks::line,
                &[F],
                "Author of the commits at the end of a run",
            ),
            of("WORKSPACE_AUTO_COMMIT_AUTHOR_EMAIL", "pi-gateway@localhost", checks::email, &[F], "His e-mail address"),
            of("WORKSPACE_AUTO_COMMIT_MESSAGE_PREFIX", "pi:", checks::line, &[F], "What their messages begin with"),
            of("GITEA_BASE_URL", "", checks::gitea, &[F, G], "The Gitea; needed with WORKSPACE_REMOTE_MODE=gitea"),
            of("GITEA_WORKSPACE_REPO_NAME", "workspace", checks::repository, &[F, G], "Name of each user's repository"),
            of(
                "GITEA_SYNC_SERVICE_USERNAME",
                "",
                checks::account,
                &[G],
                "Account that fetches and pushes; needed with WORKSPACE_REMOTE_MODE=gitea",
            ),
        ],
    ),
];

/// Credentials: never in the file, always in `/etc/pi-gateway/credentials/NAME`, and who holds each.
pub const CREDENTIALS: &[(&str, Reader, &str)] = &[
    ("OPENAI_API_KEY", M, "Key of the upstream"),
    ("GITEA_SYNC_SERVICE_TOKEN", G, "Token of the account that fetches and pushes"),
];

/// All variables in one row.
pub fn all() -> impl Iterator<Item = &'static Variable> {
    GROUPS.iter().flat_map(|(_, variables)| variables.iter())
}
