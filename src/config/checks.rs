//! What makes a value of a variable. A check says what would be right, never what the value was: it may be a secret.

use std::net::IpAddr;

use pi_gateway_helper::names::User;

/// The result of a check: what would be right.
pub type Checked = Result<(), String>;

fn holds(fits: bool, wanted: &str) -> Checked {
    if fits { Ok(()) } else { Err(wanted.to_owned()) }
}

/// A whole number in a range.
pub fn number(value: &str, low: u64, high: u64) -> Checked {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let fits = digits && value.parse::<u64>().is_ok_and(|number| (low..=high).contains(&number));
    holds(fits, &format!("must be a whole number from {low} to {high}"))
}

/// `true` or `false`.
pub fn boolean(value: &str) -> Checked {
    holds(matches!(value, "true" | "false"), "must be true or false")
}

/// An absolute path that can stand in an argument and a mount as it is.
pub fn path(value: &str) -> Checked {
    let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._+-".contains(&b));
    let straight = value.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    let fits = value.starts_with('/') && plain && straight && !value.contains("..") && value.len() <= 200;
    holds(fits, "must be an absolute path of letters, digits and / . _ + -, without .. or // in it")
}

/// A directory for users' data: the launcher's unit may write below /var/lib.
pub fn state_path(value: &str) -> Checked {
    path(value)?;
    holds(
        value.starts_with("/var/lib/") || value.starts_with("/srv/"),
        "must lie below /var/lib or /srv (for another place than /var/lib/pi-gateway add ReadWritePaths= to \
         pi-gateway-launcher.service)",
    )
}

/// A directory for exported sites, which the front's unit may write to.
pub fn sites_path(value: &str) -> Checked {
    path(value)?;
    holds(value.starts_with("/var/lib/") || value.starts_with("/srv/"), "must lie below /var/lib or /srv")
}

/// A program that a sandbox can see.
pub fn program_path(value: &str) -> Checked {
    path(value)?;
    holds(value.starts_with("/usr/"), "must lie below /usr, which is what a sandbox sees")
}

/// A model's id.
pub fn model(value: &str) -> Checked {
    let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
    let fits = plain && value.starts_with(|c: char| c.is_ascii_alphanumeric()) && value.len() <= 64;
    holds(fits, "must be a model's id: 1 to 64 letters, digits and . _ : -")
}

/// An amount of memory for systemd.
pub fn memory(value: &str) -> Checked {
    let digits = value.strip_suffix(['M', 'G']).unwrap_or_default();
    let high = if value.ends_with('G') { 1024 } else { 1 << 20 };
    let low = if value.ends_with('G') { 1 } else { 256 };
    holds(number(digits, low, high).is_ok(), "must be a size from 256M to 1024G, such as 512M or 2G")
}

/// A share of one processor for systemd.
pub fn percent(value: &str) -> Checked {
    let fits = value.strip_suffix('%').is_some_and(|digits| number(digits, 10, 10_000).is_ok());
    holds(fits, "must be a share of one processor from 10% to 10000%")
}

/// An IP address.
pub fn address(value: &str) -> Checked {
    holds(value.parse::<IpAddr>().is_ok(), "must be an IP address, such as 127.0.0.1")
}

/// The one address the internal provider may have: it is inside each sandbox's own namespace.
pub fn loopback(value: &str) -> Checked {
    holds(value == "127.0.0.1", "must be 127.0.0.1: the provider listens inside each sandbox, nowhere else")
}

/// A secret that tokens are signed with.
pub fn secret(value: &str) -> Checked {
    let lower = value.to_lowercase();
    let words = ["changeme", "change-me", "change_me", "placeholder", "example", "your-", "your_"];
    let distinct = value.chars().collect::<std::collections::BTreeSet<_>>().len();
    // A word again and again, such as 0123456789 to the length that is wanted.
    let bytes = value.as_bytes();
    let periodic = (1..=bytes.len() / 2).any(|period| bytes[period..] == bytes[..bytes.len() - period]);
    let placeholder = words.iter().any(|word| lower.contains(word)) || distinct < 8 || periodic;
    holds(!placeholder, "is a placeholder; make a real one: `openssl rand -base64 48`")?;
    holds(value.len() >= 32, "must have at least 32 bytes: `openssl rand -base64 48`")
}

/// An https URL, or http to this machine or where the operator insists.
pub fn url(value: &str) -> Checked {
    let rest = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://")).unwrap_or_default();
    let host = rest.split('/').next().unwrap_or_default();
    let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._:-[]~".contains(&b));
    let fits = plain && !host.is_empty() && !value.ends_with('/') && value.len() <= 500;
    holds(fits, "must be an http or https URL without user, query, fragment or slash at its end")
}

/// The address of an upstream: https, or http to this machine; the key goes with each request. The relay's own rule.
pub fn upstream(value: &str) -> Checked {
    crate::relay::model::config::endpoint(value).map(drop)
}

/// The same for the models of a ChatGPT account.
pub fn codex_upstream(value: &str) -> Checked {
    crate::relay::model::codex::endpoint(value).map(drop)
}

/// Where its tokens are exchanged: a refresh token goes there.
pub fn codex_token_url(value: &str) -> Checked {
    crate::relay::model::codex::token_url(value).map(drop)
}

/// The file with a ChatGPT account, or nothing. It must lie where the launcher can write and nobody else can look.
pub fn codex_file(value: &str) -> Checked {
    let directory = super::credentials::DIRECTORY;
    let name = value.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
    let fits = value.is_empty() || (path(value).is_ok() && !name.is_empty() && !name.contains('/'));
    let taken = super::variables::CREDENTIALS.iter().any(|(known, ..)| *known == name);
    holds(
        fits && !taken,
        &format!(
            "must be a file of its own in {directory}, such as {directory}/codex.json: \
             `install -D -m 0600 ~/.codex/auth.json {directory}/codex.json`, then use that one only here: its tokens rotate"
        ),
    )
}

/// Origins of pages, separated by commas.
pub fn origins(value: &str) -> Checked {
    let origin = |origin: &str| url(origin).is_ok() && origin.splitn(4, '/').count() == 3;
    let fits = value.is_empty() || value.split(',').all(|one| origin(one.trim()));
    holds(fits, "must be origins such as https://portal.example.org, separated by commas; * is not possible")
}

/// Hosts, separated by commas, each with an optional wildcard as its first label.
pub fn hosts(value: &str) -> Checked {
    let label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let host = |host: &str| host.strip_prefix("*.").unwrap_or(host).split('.').all(label);
    let fits = value.is_empty() || value.split(',').all(|one| host(one.trim()));
    holds(fits, "must be host names, separated by commas; *.example.org stands for all below it")
}

/// A Gitea account.
pub fn account(value: &str) -> Checked {
    holds(value.is_empty() || User::parse(&value.to_lowercase()).is_ok(), "must be the name of a Gitea account")
}

/// A Gitea repository's name.
pub fn repository(value: &str) -> Checked {
    let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let fits = plain && !value.starts_with('.') && !value.ends_with(".git") && (1..=100).contains(&value.len());
    holds(fits, "must be the name of a repository: letters, digits and . _ -, without .git")
}

/// A git branch.
pub fn branch(value: &str) -> Checked {
    let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
    let parts =
        value.split('/').all(|part| !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with(".lock"));
    holds(plain && parts && !value.contains("..") && value.len() <= 100, "must be the name of a git branch")
}

/// One line of text, of 1 to 200 bytes.
pub fn line(value: &str) -> Checked {
    let fits = !value.chars().any(char::is_control) && (1..=200).contains(&value.len());
    holds(fits, "must be one line of 1 to 200 bytes")
}

/// A line, or nothing.
pub fn optional_line(value: &str) -> Checked {
    if value.is_empty() { Ok(()) } else { line(value) }
}

/// The address of a Gitea, or nothing: https, or http to this machine; the token goes with each request. The relay's
/// own rule, beside that of all URLs.
pub fn gitea(value: &str) -> Checked {
    if value.is_empty() { Ok(()) } else { url(value).and_then(|()| crate::relay::git::config::base(value).map(drop)) }
}

/// An e-mail address, roughly.
pub fn email(value: &str) -> Checked {
    let fits = value.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty());
    holds(fits && line(value).is_ok() && !value.contains(['<', '>', ' ']), "must be an e-mail address")
}

/// The name of a claim.
pub fn claim(value: &str) -> Checked {
    let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    holds(plain && (1..=64).contains(&value.len()), "must be the name of a claim, such as sub or preferred_username")
}

/// One of some words.
pub fn one_of(value: &str, words: &[&str]) -> Checked {
    holds(words.contains(&value), &format!("must be {}", words.join(" or ")))
}

/// A size of an image.
pub fn image_size(value: &str) -> Checked {
    let side = |side: &str| number(side, 64, 8192).is_ok();
    let fits = value == "auto" || value.split_once('x').is_some_and(|(width, height)| side(width) && side(height));
    holds(fits, "must be auto or WIDTHxHEIGHT, such as 1024x1024")
}
