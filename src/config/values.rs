//! The values of all variables, checked: those of the file, and the defaults of the others.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Mistakes;
use super::syntax;
use super::variables::{self, CREDENTIALS};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 10;

/// A value for every variable.
pub struct Values(HashMap<&'static str, String>);

impl Values {
    /// Reads and checks the file, its owner and mode; gives the values with warnings.
    ///
    /// # Errors
    /// Every mistake.
    pub fn load(path: &Path) -> Result<(Self, Vec<String>), Mistakes> {
        let shown = path.display();
        let failed = |error: std::io::Error| Mistakes(vec![format!("{shown}: {error}")]);
        let file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        let mut mistakes = Vec::new();
        // It holds the secret that tokens are signed with, and says what root is to do.
        if found.mode() & 0o027 != 0 {
            let remedy = format!("chown root:pi-gateway {shown} && chmod 0640 {shown}");
            let mode = found.mode() & 0o7777;
            mistakes.push(format!("{shown}: mode {mode:04o} lets others read or change it: `{remedy}`"));
        }
        if found.uid() != 0 && found.uid() != nix::unistd::geteuid().as_raw() {
            mistakes.push(format!("{shown}: belongs to uid {}; it must be root's: `chown root {shown}`", found.uid()));
        }
        let mut text = String::new();
        if found.len() > MAX_FILE {
            return Err(Mistakes(vec![format!("{shown}: larger than {MAX_FILE} bytes")]));
        }
        file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
        match Values::check(&text) {
            Ok(checked) if mistakes.is_empty() => Ok(checked),
            Ok(_) => Err(Mistakes(mistakes)),
            Err(Mistakes(more)) => {
                mistakes.extend(more);
                Err(Mistakes(mistakes))
            }
        }
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// Every mistake.
    pub fn check(text: &str) -> Result<(Self, Vec<String>), Mistakes> {
        let (given, mut mistakes) = match syntax::parse(text) {
            Ok(given) => (given, Vec::new()),
            // What can be read is judged as well, so that the next try has fewer surprises.
            Err(mistakes) => (readable(text), mistakes),
        };
        let set =
            |name: &str| given.iter().rev().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str());
        for (name, _, _) in CREDENTIALS.iter().filter(|(name, ..)| !set(name).is_empty()) {
            mistakes.push(misplaced(name));
        }
        let mut values = HashMap::new();
        for variable in variables::all() {
            let value = if set(variable.name).is_empty() { variable.default } else { set(variable.name) };
            if variable.required && value.is_empty() {
                let alike = given.iter().find(|(name, _)| !is_known(name) && distance(name, variable.name) <= 3);
                let hint = alike.map_or(String::new(), |(name, _)| format!(" The file has {name}, which is unknown."));
                mistakes.push(format!("{}: must be set. {}.{hint}", variable.name, variable.meaning));
            } else if let Err(wanted) = (variable.check)(value) {
                mistakes.push(format!("{}: {wanted}", variable.name));
            }
            values.insert(variable.name, value.to_owned());
        }
        let values = Values(values);
        mistakes.extend(values.contradictions());
        let unknown = given.iter().filter(|(name, _)| !is_known(name));
        let warnings = unknown.map(|(name, _)| format!("{name}: no variable of pi-gateway{}", nearest(name))).collect();
        if mistakes.is_empty() { Ok((values, warnings)) } else { Err(Mistakes(mistakes)) }
    }

    /// The value of a variable; empty for a name that is none.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// The value of a variable that is a number.
    pub fn number(&self, name: &str) -> u64 {
        self.get(name).parse().unwrap_or_default()
    }

    /// What is wrong only together.
    fn contradictions(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.get("WORKSPACE_REMOTE_MODE") == "gitea" {
            for name in ["GITEA_BASE_URL", "GITEA_SYNC_SERVICE_USERNAME"] {
                if self.get(name).is_empty() {
                    found.push(format!("{name}: must be set with WORKSPACE_REMOTE_MODE=gitea"));
                }
            }
        }
        let egress = crate::relay::egress::limits::PORT;
        if self.get("SANDBOX_INTERNET_ENABLED") == "true" && self.number("INTERNAL_PROVIDER_PORT") == u64::from(egress)
        {
            found.push(format!("INTERNAL_PROVIDER_PORT: {egress} is the proxy's with SANDBOX_INTERNET_ENABLED=true"));
        }
        let directories = (self.get("BASE_WORKDIR"), self.get("SESSION_DIR"));
        let within = |inner: &str, outer: &str| Path::new(inner).starts_with(outer);
        if within(directories.0, directories.1) || within(directories.1, directories.0) {
            found.push("SESSION_DIR: must not be BASE_WORKDIR, in it, or around it".to_owned());
        }
        let own =
            ["", "/raw", "/front", "/usage", "/uids", "/standing"].map(|part| format!("/var/lib/pi-gateway{part}"));
        let sites = self.get("SITES_DIR");
        if !sites.is_empty()
            && [directories.0, directories.1].iter().any(|users| within(sites, users) || within(users, sites))
        {
            found.push("SITES_DIR: must not be BASE_WORKDIR or SESSION_DIR, in one, or around one".to_owned());
        }
        for (name, directory) in [("BASE_WORKDIR", directories.0), ("SESSION_DIR", directories.1), ("SITES_DIR", sites)]
        {
            if directory == own[0] || own[1..].iter().any(|own| within(directory, own)) {
                found.push(format!("{name}: is one of the gateway's own directories; take one beside them"));
            }
        }
        if !self.get("JWT_SHARED_SECRET").is_empty()
            && self.get("JWT_SHARED_SECRET") == self.get("JWT_SHARED_SECRET_PREVIOUS")
        {
            found.push("JWT_SHARED_SECRET_PREVIOUS: is the same as JWT_SHARED_SECRET; remove it".to_owned());
        }
        found
    }
}

/// The lines of a text that are variables, when others are not.
fn readable(text: &str) -> Vec<(String, String)> {
    text.lines().filter_map(|line| syntax::parse(line).ok()).flatten().collect()
}

fn is_known(name: &str) -> bool {
    variables::all().any(|variable| variable.name == name) || CREDENTIALS.iter().any(|(known, ..)| *known == name)
}

fn misplaced(name: &str) -> String {
    let directory = super::credentials::DIRECTORY;
    format!(
        "{name}: does not belong here, where the front can read it. Move it to {directory}: `pi-gateway move-credentials`"
    )
}

/// The known name that differs in the fewest letters, if it is near.
fn nearest(name: &str) -> String {
    let near = variables::all().map(|variable| (distance(name, variable.name), variable.name)).min();
    near.filter(|(distance, _)| *distance <= 3).map_or(String::new(), |(_, near)| format!("; is {near} meant?"))
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECRET: &str = "JWT_SHARED_SECRET=q3VtN0m1c2ZLw8Jx5RbYtPzKdHfGsAeUiOp\n";

    fn mistakes(text: &str) -> Vec<String> {
        Values::check(text).err().map(|mistakes| mistakes.0).unwrap_or_default()
    }

    #[test]
    fn a_file_with_twelve_mistakes_reports_twelve() {
        let text = "PORT=0\nHOST=localhost\nJWT_SHARED_SECRET=changeme\nMAX_UPLOAD_MB=many\nPI_BIN=pi\n\
            INTERNAL_PROVIDER_HOST=0.0.0.0\nSANDBOX_MEMORY_MAX=1T\nRUN_TIMEOUT_MS=-1\nWORKSPACE_REMOTE_MODE=github\n\
            OPENAI_API_KEY=sk-live-0123456789\nnot a variable\nCORS_ORIGINS=*\n";
        let found = mistakes(text);
        assert_eq!(found.len(), 12, "{found:#?}");
        assert!(!found.concat().contains("sk-live") && !found.concat().contains("not a variable"), "{found:#?}");
        let credential = found.iter().find(|mistake| mistake.starts_with("OPENAI_API_KEY")).unwrap();
        assert!(credential.contains("`pi-gateway move-credentials`"));
    }

    #[test]
    fn every_default_passes_its_own_check() {
        let (values, warnings) = Values::check(SECRET).map_err(|mistakes| mistakes.to_string()).unwrap();
        assert_eq!((values.number("PORT"), warnings.len()), (8787, 0));
    }

    #[test]
    fn secrets_that_are_none_are_refused() {
        for bad in [
            "",
            "short",
            "changeme-changeme-changeme-changeme",
            "your-secret-key-your-secret-key-0123",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "q3VtN0m1c2ZLw8Jx5RbYtPzKdHfGsAe",
            "0123456789abcdef0123456789abcdef",
            "12345678901234567890123456789012",
        ] {
            assert_eq!(mistakes(&format!("JWT_SHARED_SECRET={bad}\n")).len(), 1, "{bad}");
        }
        let both = format!("{SECRET}{}", SECRET.replace("SECRET=", "SECRET_PREVIOUS="));
        assert_eq!(mistakes(&both).len(), 1);
    }

    #[test]
    fn what_is_not_known_is_warned_about_with_what_may_be_meant() {
        let (_, warnings) = Values::check(&format!("{SECRET}MAX_UPLOAD_MBS=1\nSOMETHING_ELSE=1\n")).ok().unwrap();
        assert_eq!(warnings[0], "MAX_UPLOAD_MBS: no variable of pi-gateway; is MAX_UPLOAD_MB meant?");
        assert_eq!(warnings[1], "SOMETHING_ELSE: no variable of pi-gateway");
    }

    #[test]
    fn the_key_is_sent_in_the_clear_to_this_machine_only() {
        for (url, good) in [
            ("https://api.example.org/v1", true),
            ("http://127.0.0.1:9180/v1", true),
            ("http://[::1]:9180/v1", true),
            ("http://api.example.org/v1", false),
            ("http://127.example.org/v1", false),
            ("http://[::ffff:8.8.8.8]/v1", false),
            ("https://user@example.org/v1", false),
        ] {
            assert_eq!(mistakes(&format!("{SECRET}OPENAI_BASE_URL={url}\n")).is_empty(), good, "{url}");
        }
    }

    #[test]
    fn the_account_lies_beside_the_credentials_and_is_sent_nowhere_in_the_clear() {
        let place = "/etc/pi-gateway/credentials";
        for (file, good) in [
            (format!("{place}/codex.json"), true),
            (format!("{place}/OPENAI_API_KEY"), false),
            (format!("{place}/a/b"), false),
            (format!("{place}/../x"), false),
            (format!("{place}x"), false),
            ("/root/.codex/auth.json".to_owned(), false),
            ("codex.json".to_owned(), false),
        ] {
            let found = mistakes(&format!("{SECRET}PI_GATEWAY_CODEX_AUTH_FILE={file}\n"));
            assert_eq!(found.is_empty(), good, "{file}");
            assert!(good || found[0].contains("install -D -m 0600"), "{found:?}");
        }
        for name in ["PI_GATEWAY_CODEX_TOKEN_URL", "PI_GATEWAY_CODEX_UPSTREAM_BASE_URL"] {
            assert_eq!(mistakes(&format!("{SECRET}{name}=http://chatgpt.com/x\n")).len(), 1);
            assert!(mistakes(&format!("{SECRET}{name}=http://127.0.0.1:9/x\n")).is_empty());
        }
    }

    #[test]
    fn what_is_wrong_together_is_told() {
        let found = mistakes(&format!("{SECRET}WORKSPACE_REMOTE_MODE=gitea\n"));
        assert_eq!(found.len(), 2, "{found:?}");
        for own in ["/var/lib/pi-gateway", "/var/lib/pi-gateway/raw", "/var/lib/pi-gateway/front/x"] {
            let found = mistakes(&format!("{SECRET}BASE_WORKDIR={own}\nSESSION_DIR=/srv/sessions\n"));
            assert_eq!(found.len(), 1, "{own}: {found:?}");
        }
        let internet = "SANDBOX_INTERNET_ENABLED=true\nSANDBOX_INTERNET_ALLOW=*.example.org, packages.example.net\n";
        assert_eq!(mistakes(&format!("{SECRET}{internet}")), Vec::<String>::new());
        assert_eq!(mistakes(&format!("{SECRET}{internet}INTERNAL_PROVIDER_PORT=4182\n")).len(), 1);
        let hint = mistakes("JWT_SHARED_SECRT=q3VtN0m1c2ZLw8Jx5RbYtPzKdHfGsAeUiOp\n");
        assert!(hint[0].contains("The file has JWT_SHARED_SECRT"), "{hint:?}");
        for (sites, good) in [
            ("/var/lib/pi-gateway/sites", true),
            ("/var/lib/pi-gateway/front", false),
            ("/var/lib/pi-gateway/workspaces/sites", false),
            ("/etc/sites", false),
        ] {
            assert_eq!(mistakes(&format!("{SECRET}SITES_DIR={sites}\n")).is_empty(), good, "{sites}");
        }
        let nested = "SESSION_DIR=/var/lib/pi-gateway/workspaces/sessions\n";
        assert_eq!(mistakes(&format!("{SECRET}{nested}")).len(), 1);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), SECRET).unwrap();
        for (mode, good) in [(0o640, true), (0o600, true), (0o644, false), (0o660, false)] {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let loaded = Values::load(file.path());
            assert_eq!(loaded.is_ok(), good, "{mode:o}");
            assert!(good || loaded.err().unwrap().0[0].contains("chmod 0640"));
        }
    }

    #[test]
    fn every_variable_of_the_origin_and_every_new_one_is_in_the_table() {
        let names = "HOST PORT REQUEST_TIMEOUT_MS WORKSPACE_FINALIZATION_TIMEOUT_MS MAX_UPLOAD_MB JWT_SHARED_SECRET \
            BASE_WORKDIR SESSION_DIR PI_BIN INTERNAL_PROVIDER_HOST INTERNAL_PROVIDER_PORT PI_GATEWAY_EXTENSION_PATH \
            PI_GATEWAY_CODEX_AUTH_FILE PI_GATEWAY_CODEX_UPSTREAM_BASE_URL PI_DISABLE_CONTEXT_FILES \
            SANDBOX_INTERNET_ENABLED PI_SANDBOX_AGENTS_PATH OPENAI_API_KEY OPENAI_IMAGE_MODEL OPENAI_IMAGE_SIZE \
            OPENAI_RESPONSES_MODEL WORKSPACE_GIT_INIT_ENABLED WORKSPACE_GIT_DEFAULT_BRANCH \
            WORKSPACE_GIT_INITIAL_COMMIT_MESSAGE WORKSPACE_REMOTE_MODE WORKSPACE_AUTO_COMMIT_AUTHOR_NAME \
            WORKSPACE_AUTO_COMMIT_AUTHOR_EMAIL WORKSPACE_AUTO_COMMIT_MESSAGE_PREFIX GITEA_BASE_URL \
            GITEA_WORKSPACE_REPO_NAME GITEA_SYNC_SERVICE_USERNAME GITEA_SYNC_SERVICE_TOKEN JWT_SHARED_SECRET_PREVIOUS \
            JWT_ISSUER JWT_AUDIENCE JWT_USER_CLAIM JWT_MAX_LIFETIME_S OPENAI_BASE_URL PI_GATEWAY_MODELS \
            PI_GATEWAY_DEFAULT_MODEL SANDBOX_MEMORY_MAX SANDBOX_TASKS_MAX SANDBOX_CPU_QUOTA RUN_TIMEOUT_MS \
            RUN_CANCEL_GRACE_MS MAX_CONCURRENT_RUNS WORKSPACE_QUOTA_MB RUN_RETENTION_DAYS SITES_DIR CORS_ORIGINS \
            USER_DAILY_TOKEN_BUDGET SANDBOX_INTERNET_ALLOW PI_GATEWAY_CODEX_TOKEN_URL";
        for name in names.split_whitespace() {
            assert!(is_known(name), "{name}");
        }
    }
}
