//! The arguments of `systemd-run`: pure functions of constants, settings and checked names.
//!
//! Golden files in `helper/tests/golden` hold the results. What a property is for stands beside it; docs/protocol.md and
//! the threat model say what they add up to. Nothing a user can choose gets here but his name and his run's id.

use crate::names::{Run, User};
use crate::settings::Settings;
use crate::systemd::RUN_DESCRIPTION;

/// The slice of everything the launcher starts.
const SLICE: &str = "--slice=pi-gateway.slice";
/// What the name of an agent's unit begins with.
pub const AGENT_PREFIX: &str = "pi-gateway-agent-";
/// The unit of the model relay.
pub const MODEL_RELAY: &str = "pi-gateway-relay-model.service";
/// What is written for the relay to read.
pub const MODEL_RELAY_CONFIG: &str = "/run/pi-gateway/config/relay-model.env";
/// The input and output of runs.
pub const RAW_DIR: &str = "/var/lib/pi-gateway/raw";
/// The passwd and group files of users.
pub const USERS_DIR: &str = "/run/pi-gateway/users";

/// The unit of a user's agent.
pub fn agent(user: &User) -> String {
    format!("{AGENT_PREFIX}{}.service", user.as_str())
}

/// Restrictions of every unit the launcher starts.
const COMMON: &[&str] = &[
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateDevices=yes",
    "DevicePolicy=closed",
    "PrivateIPC=yes",
    "PrivateMounts=yes",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "KeyringMode=private",
    "RemoveIPC=yes",
    "UMask=0077",
    "LimitCORE=0",
    "SystemCallArchitectures=native",
    "SystemCallErrorNumber=EPERM",
    "SystemCallFilter=@system-service",
];

/// Restrictions of an agent beside the common ones.
const AGENT: &[&str] = &[
    // Returns when enter runs, so a failing mount or user is an error of the start.
    "Type=exec",
    "Restart=no",
    "TimeoutStartSec=8s",
    // pi saves its session within 40 ms of SIGTERM; what ignores the signal is killed after this.
    "TimeoutStopSec=2s",
    "KillMode=control-group",
    "OOMPolicy=kill",
    "PrivateNetwork=yes",
    "PrivateUsers=yes",
    // A second wall: without the exception for localhost the provider's listener inside would be cut off as well.
    "IPAddressDeny=any",
    "IPAddressAllow=localhost",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "SystemCallFilter=~@privileged @resources @keyring @memlock @aio @setuid @debug userfaultfd bpf process_vm_readv \
     process_vm_writev process_madvise kcmp pidfd_getfd pidfd_open pidfd_send_signal name_to_handle_at unshare setns \
     memfd_create remap_file_pages",
    // A prepared tree: with TemporaryFileSystem=/ ProtectSystem=strict would silently show the host's whole root.
    "RootDirectory=/run/pi-gateway/root",
    "MountAPIVFS=yes",
    "InaccessiblePaths=/sys",
    "TemporaryFileSystem=/run:ro,mode=755 /tmp:size=512M,nr_inodes=64k,mode=1777 \
     /var/tmp:size=128M,nr_inodes=16k,mode=1777 /agent:size=16M,nr_inodes=1k,mode=1777",
    "BindReadOnlyPaths=/usr /bin /sbin /lib -/lib64 /etc/ssl /etc/alternatives /etc/ld.so.cache \
     /run/pi-gateway/relay-model:/run/relay-model /usr/lib/pi-gateway/trusted/settings.json:/agent/settings.json",
    "WorkingDirectory=/workspace",
    "MemorySwapMax=0",
    "LimitNOFILE=8192",
    // Bounds the raw output and each file of the workspace.
    "LimitFSIZE=4G",
];

/// What an agent finds in its environment. All of it is inherited by every command it runs.
const AGENT_ENVIRONMENT: &[&str] = &[
    "HOME=/workspace",
    "PATH=/usr/local/bin:/usr/bin:/bin",
    "LANG=C.UTF-8",
    "SHELL=/bin/bash",
    "TMPDIR=/tmp",
    "PI_CODING_AGENT_DIR=/agent",
    "PI_OFFLINE=1",
    "PI_SKIP_VERSION_CHECK=1",
    "PI_TELEMETRY=0",
    // Without these two the transpiled extension would be cached where the agent can change it.
    "JITI_FS_CACHE=false",
    "NODE_DISABLE_COMPILE_CACHE=1",
    // The host's name has no domain, so git would not know who commits.
    "GIT_AUTHOR_NAME=pi",
    "GIT_AUTHOR_EMAIL=pi@localhost",
    "GIT_COMMITTER_NAME=pi",
    "GIT_COMMITTER_EMAIL=pi@localhost",
];

fn property(value: impl AsRef<str>) -> String {
    format!("--property={}", value.as_ref())
}

/// The arguments that start an agent. `version` is systemd's; 257 knows two restrictions more.
pub fn agent_arguments(settings: &Settings, version: u32, user: &User, uid: u32, run: &Run) -> Vec<String> {
    let (name, id) = (user.as_str(), run.as_str());
    let Settings { provider_port, memory_max, tasks_max, cpu_quota, .. } = settings;
    let lifetime = settings.run_timeout.as_secs() + settings.cancel_grace.as_secs() + 60;
    let (workspaces, sessions) = (settings.base_workdir.display(), settings.session_dir.display());
    let mut arguments = ["--quiet", "--no-ask-password", SLICE].map(str::to_owned).to_vec();
    arguments.push(format!("--unit={}", agent(user)));
    arguments.push(format!("--description={RUN_DESCRIPTION}{id}"));
    arguments.extend(COMMON.iter().chain(AGENT).map(property));
    arguments.extend(
        [
            format!("User={uid}"),
            format!("Group={uid}"),
            format!("BindPaths={workspaces}/{name}:/workspace {sessions}/{name}:/session"),
            format!(
                "BindReadOnlyPaths={USERS_DIR}/{name}/passwd:/etc/passwd {USERS_DIR}/{name}/group:/etc/group"
            ),
            format!(
                "BindReadOnlyPaths={}:/trusted/extension.mjs {}:/trusted/AGENTS.md {}:/trusted/models.json",
                settings.extension, settings.agents, settings.models
            ),
            format!("StandardInput=file:{RAW_DIR}/{id}/in"),
            format!("StandardOutput=append:{RAW_DIR}/{id}/out"),
            format!("StandardError=append:{RAW_DIR}/{id}/err"),
            format!("MemoryMax={memory_max}"),
            format!("TasksMax={tasks_max}"),
            format!("CPUQuota={cpu_quota}"),
            // The front ends a run in time; this ends it should the front be gone for good.
            format!("RuntimeMaxSec={lifetime}"),
        ]
        .map(property),
    );
    if version >= 257 {
        arguments.extend(["PrivatePIDs=yes", "BindLogSockets=no"].map(property));
    }
    arguments.extend(AGENT_ENVIRONMENT.iter().map(|variable| format!("--setenv={variable}")));
    arguments.push(format!("--setenv=GATEWAY_URL=http://127.0.0.1:{provider_port}/v1"));
    let enter = ["--", "/usr/lib/pi-gateway/pi-gateway-enter", "--run", id, "--model-port"];
    arguments.extend(enter.map(str::to_owned));
    arguments.extend([provider_port.to_string(), "--".to_owned()]);
    arguments.extend(pi_arguments(settings));
    arguments
}

/// pi and its arguments: nothing of the workspace is loaded as configuration, and the session is the user's one file.
fn pi_arguments(settings: &Settings) -> Vec<String> {
    let mut arguments = vec![settings.pi_bin.clone()];
    arguments
        .extend(["--mode", "rpc", "-ne", "-ns", "-np", "--no-themes", "-na", "--offline"].map(str::to_owned));
    if settings.disable_context_files {
        arguments.push("-nc".to_owned());
    }
    arguments.extend(
        ["-e", "/trusted/extension.mjs", "--append-system-prompt", "/trusted/AGENTS.md"].map(str::to_owned),
    );
    arguments.extend(["--session-dir", "/session", "--session", "/session/session.jsonl"].map(str::to_owned));
    arguments.extend(["--provider", "gateway", "--model", &settings.default_model].map(str::to_owned));
    arguments
}

/// Restrictions of the model relay beside the common ones. No PrivateUsers: it reads its peers' uids.
const RELAY: &[&str] = &[
    "Type=notify",
    "NotifyAccess=main",
    "WatchdogSec=30s",
    "Restart=always",
    "RestartSec=200ms",
    "StartLimitIntervalSec=60s",
    "StartLimitBurst=20",
    "TimeoutStartSec=8s",
    "TimeoutStopSec=6s",
    "User=pi-gateway-model",
    "Group=pi-gateway-model",
    "SupplementaryGroups=",
    // Two descriptors an agent: its listener and its process.
    "FileDescriptorStoreMax=256",
    "MemoryDenyWriteExecute=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "SystemCallFilter=~@privileged @resources @keyring @memlock @aio @setuid @debug userfaultfd unshare setns",
    "TemporaryFileSystem=/run:ro /var:ro /home:ro /root:ro",
    "BindReadOnlyPaths=/run/systemd/notify -/run/systemd/resolve /run/pi-gateway/config",
    "BindPaths=/run/pi-gateway/relay-model /var/lib/pi-gateway/usage",
    // The gateway's own configuration holds the JWT secret; file modes keep it out of reach, this takes it out of sight.
    "InaccessiblePaths=-/etc/pi-gateway/gateway.env -/etc/pi-gateway/credentials",
    "MemoryMax=512M",
    "TasksMax=64",
    "LimitNOFILE=16384",
];

/// The arguments that start the model relay.
pub fn relay_arguments(credentials: &str) -> Vec<String> {
    let mut arguments = ["--quiet", "--no-ask-password", SLICE].map(str::to_owned).to_vec();
    arguments.push(format!("--unit={MODEL_RELAY}"));
    arguments.push("--description=pi-gateway model relay".to_owned());
    arguments.extend(COMMON.iter().chain(RELAY).map(property));
    arguments.push(property(format!("LoadCredential=OPENAI_API_KEY:{credentials}/OPENAI_API_KEY")));
    arguments.extend(["--", "/usr/lib/pi-gateway/pi-gateway-relay", "model"].map(str::to_owned));
    arguments
}
